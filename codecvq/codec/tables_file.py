"""`code_tables.json`: the code tables of a saved codec, in its folder.

The file is optional, and the hashes of the codec do not depend on it. It records the `codebooks_sha256` of
the codec that it belongs to. A `.cvq` file that uses the tables refers to them by `CodeTables.sha256`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from codecvq.api.code_tables import (
    MAX_RADIX,
    MAX_ROW_SUM,
    MAX_STEP,
    CodeTables,
    Symbol,
    SymbolContext,
)
from codecvq.errors import CodecError, OptionError
from codecvq.files import write_atomically
from codecvq.json_file import read_model
from codecvq.limits import MAX_CODEBOOK_SIZE, MAX_CODEBOOKS

TABLES = "code_tables.json"
FORMAT = "codecvq.code_tables/1"
MAX_FILE_BYTES = 1 << 22
MAX_FILE_ENTRIES = 1 << 18
MAX_SYMBOLS = 1 << 12
ADVICE = "Copy the file again; or delete it, and create it with: codecvq tables"

_SHA256 = r"^[0-9a-f]{64}$"
_Frequency = Annotated[int, Field(ge=1, le=MAX_ROW_SUM)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _StoredContext(_Strict):
    symbol: int = Field(ge=0, lt=MAX_SYMBOLS)
    lag: int = Field(ge=0, le=1)
    classes: list[Annotated[int, Field(ge=0, lt=MAX_RADIX)]] | None = Field(None, max_length=MAX_RADIX)


class _StoredSymbol(_Strict):
    codebook: int = Field(ge=0, lt=MAX_CODEBOOKS)
    place: int = Field(ge=1, le=MAX_CODEBOOK_SIZE)
    radix: int = Field(ge=1, le=MAX_RADIX)
    contexts: list[_StoredContext] = Field(max_length=16)
    frequencies: list[_Frequency] = Field(max_length=MAX_FILE_ENTRIES)  # row by row


class _StoredTables(_Strict):
    format: str
    sha256: str = Field(pattern=_SHA256)  # of the tables
    codebooks_sha256: str = Field(pattern=_SHA256)  # of the codec
    codebook_sizes: list[Annotated[int, Field(ge=1, le=MAX_CODEBOOK_SIZE)]] = Field(max_length=MAX_CODEBOOKS)
    step: int = Field(ge=0, le=MAX_STEP)
    symbols: list[_StoredSymbol] = Field(max_length=MAX_SYMBOLS)


def write_tables(folder: Path, tables: CodeTables, codebooks_sha256: str) -> Path:
    """Write the tables of the codec in `folder` and return the path.

    Raises CodecError for tables that `read_tables` does not accept.
    """
    path = folder / TABLES
    if tables.entries > MAX_FILE_ENTRIES or len(tables.symbols) > MAX_SYMBOLS:
        raise CodecError(
            f"tables of {len(tables.symbols):,} symbols and {tables.entries:,} frequencies cannot be stored; "
            f"at most {MAX_SYMBOLS:,} and {MAX_FILE_ENTRIES:,} are possible. Use fewer contexts, or classes."
        )
    symbols = []
    for symbol, frequencies in zip(tables.symbols, tables.frequencies, strict=True):
        contexts = [
            {"symbol": context.symbol, "lag": context.lag}
            | ({} if context.classes is None else {"classes": context.classes.tolist()})
            for context in symbol.contexts
        ]
        symbols.append(
            {
                "codebook": symbol.codebook,
                "place": symbol.place,
                "radix": symbol.radix,
                "contexts": contexts,
                "frequencies": frequencies.reshape(-1).tolist(),
            }
        )
    stored = {
        "format": FORMAT,
        "sha256": tables.sha256,
        "codebooks_sha256": codebooks_sha256,
        "codebook_sizes": list(tables.codebook_sizes),
        "step": tables.step,
        "symbols": symbols,
    }
    write_atomically(path, json.dumps(stored, separators=(",", ":")) + "\n")
    return path


def read_tables(folder: Path, codebooks_sha256: str) -> CodeTables | None:
    """Read the tables of the codec in `folder`; None if it has none.

    Raises CodecError if the file is damaged or belongs to another codec.
    """
    path = folder / TABLES
    if not path.exists():
        return None
    stored = read_model(path, _StoredTables, error=CodecError, advice=ADVICE, max_bytes=MAX_FILE_BYTES)
    if stored.format != FORMAT:
        raise CodecError(f"{path} has format {stored.format[:60]!r}; this codecvq reads {FORMAT!r}. {ADVICE}")
    if stored.codebooks_sha256 != codebooks_sha256:
        raise CodecError(
            f"{path} has the tables of the codebooks {stored.codebooks_sha256[:12]}, but the codec in its "
            f"folder has the codebooks {codebooks_sha256[:12]}. {ADVICE}"
        )
    try:
        tables = _tables(stored)
    except OptionError as error:
        raise CodecError(f"{path} is damaged ({error}). {ADVICE}") from error
    if tables.sha256 != stored.sha256:
        raise CodecError(f"{path} does not match its sha256: it was changed. {ADVICE}")
    return tables


def discard_other_tables(folder: Path, codebooks_sha256: str) -> None:
    """Delete the tables in `folder` unless they can be read and belong to these codebooks."""
    try:
        read_tables(folder, codebooks_sha256)
    except CodecError:
        (folder / TABLES).unlink(missing_ok=True)


def _tables(stored: _StoredTables) -> CodeTables:
    symbols, frequencies = [], []
    for each in stored.symbols:
        contexts = tuple(
            SymbolContext(
                context.symbol, context.lag, None if context.classes is None else np.array(context.classes)
            )
            for context in each.contexts
        )
        symbols.append(Symbol(each.codebook, each.place, each.radix, contexts))
        if len(each.frequencies) % each.radix:
            raise OptionError(f"{len(each.frequencies)} frequencies for a radix of {each.radix}")
        frequencies.append(np.array(each.frequencies, dtype=np.int64).reshape(-1, each.radix))
    return CodeTables(tuple(stored.codebook_sizes), tuple(symbols), tuple(frequencies), stored.step)
