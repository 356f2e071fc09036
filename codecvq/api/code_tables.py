"""`CodeTables`: learned frequencies of codes, for the entropy coder of `.cvq` files.

A table is an integer array `[contexts, radix]`: the frequency of each value of a symbol in each context. A
symbol is a code, or one digit of a code. The coder starts with these frequencies and adds `step` for each
symbol that it codes, so a row with a sum much larger than `step` changes little within a file.

Files are written and read with integer arithmetic only, so that every machine decodes them. A quantizer
stores the frequencies in a buffer: they are saved with the codec and are part of its `codebooks_sha256`.

Letters: N codebooks, K codebook size, T frames, R radix of a symbol, C contexts of a symbol.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from codecvq.errors import OptionError

Integers = npt.NDArray[np.int64]

MAX_RADIX = 4096  # of a symbol: the largest alphabet of the range coder
MAX_ROW_SUM = 1 << 24  # sum of a row
MAX_STEP = 1 << 12
MAX_ENTRIES = 1 << 26  # of all tables of a codec
CONTEXTS = ("previous", "below", "digit")


@dataclass(frozen=True, eq=False)
class SymbolContext:
    """A context of a symbol: another symbol, whose value selects the row of frequencies."""

    symbol: int  # index in `CodeTables.symbols`
    lag: int  # 0: the same frame; 1: the previous frame
    classes: Integers | None = None  # [R], the class of each value; None: one class per value

    def __post_init__(self) -> None:
        if self.classes is None:
            return
        classes = _integers(self.classes, "classes")
        object.__setattr__(self, "classes", classes)
        if classes.ndim != 1 or not len(classes) or classes.min() < 0 or classes.max() >= MAX_RADIX:
            raise OptionError(f"classes have shape {list(classes.shape)}; [K] from 0 to 4095 are needed")


@dataclass(frozen=True)
class Symbol:
    """One digit of the codes of a codebook, `code // place % radix`.

    With place 1 and radix K, the symbol is the whole code.
    """

    codebook: int
    place: int
    radix: int
    contexts: tuple[SymbolContext, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.radix <= MAX_RADIX:
            raise OptionError(
                f"a symbol of codebook {self.codebook} has {self.radix} values; 1 to {MAX_RADIX} are "
                "possible. Split larger codes with levels."
            )


@dataclass(frozen=True, eq=False)
class CodeTables:
    """Frequencies of the codes of one or more codebooks.

    Create tables with `uniform` and `join`, and set frequencies with `with_counts` or `with_frequencies`.
    Raises OptionError for frequencies below 1, row sums above 2^24, tables that do not match the shape of
    their symbol, and contexts that are decoded after their symbol.
    """

    codebook_sizes: tuple[int, ...]
    symbols: tuple[Symbol, ...]  # by codebook, least significant digit first
    frequencies: tuple[Integers, ...]  # [C, R] of each symbol
    step: int = 64  # added to a frequency for each occurrence in a file

    @classmethod
    def uniform(
        cls,
        codebook_sizes: Sequence[int],
        *,
        levels: Sequence[int] | None = None,
        contexts: Sequence[str] = (),
        classes: Sequence[Any] | None = None,  # Any: an array or a tensor
        step: int = 64,
    ) -> CodeTables:
        """Return tables in which every frequency is 1.

        `levels` splits each code into digits of these radices, least significant first, as in FSQ. Their
        product must be at least K. Without `levels` a code is one symbol, and K is at most 4096.

        `contexts` can contain "previous", the same symbol of the previous frame; "below", the same symbol of
        the previous codebook in the same frame; and "digit", the previous digit of the same code. The number
        of rows is the product over the contexts: a context of radix R has R + 1 values, one of them for its
        absence (for example at the first frame). `classes` has for each codebook an array `[K]` with the
        class of each code, 0 to A - 1. A context of whole codes then has A + 1 values.
        """
        sizes = tuple(int(size) for size in codebook_sizes)
        symbols = tuple(_symbols(sizes, levels, contexts, classes))
        return cls(sizes, symbols, tuple(map(_ones, symbols, [symbols] * len(symbols))), step)

    @classmethod
    def join(cls, parts: Sequence[CodeTables]) -> CodeTables:
        """Concatenate the tables of codebooks, for example of residual stages. `step` must be equal."""
        if not parts or len({part.step for part in parts}) > 1:
            raise OptionError(
                f"steps of the tables are {[part.step for part in parts]}; equal steps are needed"
            )
        sizes: tuple[int, ...] = ()
        symbols: list[Symbol] = []
        for part in parts:
            symbols += [_moved(symbol, len(sizes), len(symbols)) for symbol in part.symbols]
            sizes += part.codebook_sizes
        tables = tuple(table for part in parts for table in part.frequencies)
        return cls(sizes, tuple(symbols), tables, parts[0].step)

    def __post_init__(self) -> None:
        tables = tuple(_integers(table, "frequencies") for table in self.frequencies)
        object.__setattr__(self, "frequencies", tables)
        _check_symbols(self.symbols, self.codebook_sizes)
        if not 0 <= self.step <= MAX_STEP:
            raise OptionError(f"step is {self.step}; 0 to {MAX_STEP} is possible")
        if len(tables) != len(self.symbols) or self.entries > MAX_ENTRIES:
            raise OptionError(
                f"{len(tables)} tables with {self.entries:,} entries are given; one for each of the "
                f"{len(self.symbols)} symbols is needed, and at most {MAX_ENTRIES:,} entries"
            )
        for at, (symbol, table) in enumerate(zip(self.symbols, tables, strict=True)):
            shape = (num_contexts(symbol, self.symbols), symbol.radix)
            if table.shape != shape:
                raise OptionError(f"table {at} has shape {list(table.shape)}; {list(shape)} is needed")
            if table.min() < 1 or table.max() > MAX_ROW_SUM or table.sum(axis=1).max() > MAX_ROW_SUM:
                raise OptionError(
                    f"table {at} has frequencies from {table.min()} to {table.max()} and rows of up to "
                    f"{table.sum(axis=1).max()}; frequencies are at least 1, and a row's sum at most 2^24"
                )

    @property
    def entries(self) -> int:
        """Number of frequencies in all tables."""
        return sum(table.size for table in self.frequencies)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the tables in hexadecimal, by which a `.cvq` file refers to them.

        The hashed bytes are integers, 8 bytes each, least significant byte first: the number of codebooks and
        their sizes; `step`; the number of symbols; for each symbol its codebook, place, radix, the number of
        its contexts, for each context its symbol, its lag, the number of its classes (0 without classes) and
        the class of each value, and then the rows of its table.
        """
        digest = hashlib.sha256()

        def add(*numbers: int) -> None:
            digest.update(np.array(numbers, dtype="<i8").tobytes())

        add(len(self.codebook_sizes), *self.codebook_sizes, self.step, len(self.symbols))
        for symbol, table in zip(self.symbols, self.frequencies, strict=True):
            add(symbol.codebook, symbol.place, symbol.radix, len(symbol.contexts))
            for context in symbol.contexts:
                classes = () if context.classes is None else context.classes.tolist()
                add(context.symbol, context.lag, len(classes), *classes)
            digest.update(table.astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def flat(self) -> npt.NDArray[np.int32]:
        """All frequencies as one int32 array `[entries]`, for a buffer."""
        return np.concatenate([table.reshape(-1) for table in self.frequencies]).astype(np.int32)

    def with_frequencies(self, flat: Any) -> CodeTables:  # Any: an array or a tensor
        """Return tables with the same symbols and contexts, and frequencies `[entries]` in `flat` order."""
        values = _integers(flat, "frequencies")
        if values.shape != (self.entries,):
            raise OptionError(f"frequencies have shape {list(values.shape)}; [{self.entries}] is needed")
        ends = np.cumsum([table.size for table in self.frequencies])[:-1]
        tables = zip(np.split(values, ends), self.frequencies, strict=True)
        return replace(self, frequencies=tuple(part.reshape(table.shape) for part, table in tables))

    def with_counts(
        self, clips: Iterable[Any], *, total: int = 1 << 16, strides: Sequence[int] | None = None
    ) -> CodeTables:
        """Return tables with the same symbols and contexts and the frequencies of the codes of `clips`.

        Each clip is an array or tensor `[N, T]`; absent codes are -1. The sum of every row is about `total`.
        A rare context gets nearly the frequencies of its symbol without context. `strides` are the strides of
        the codebooks: a code is counted once per block of frames.
        """
        if not 1 <= total <= MAX_ROW_SUM // 2:
            raise OptionError(f"total is {total}; 1 to {MAX_ROW_SUM // 2} is possible")
        counts = self.context_counts(clips, strides=strides)
        return replace(self, frequencies=tuple(smoothed_frequencies(count, total) for count in counts))

    def context_counts(
        self, clips: Iterable[Any], *, strides: Sequence[int] | None = None
    ) -> tuple[Integers, ...]:
        """Return how often each value of each symbol occurs in each context: `[C, R]` of each symbol.

        The arguments are those of `with_counts`.
        """
        strides = (1,) * len(self.codebook_sizes) if strides is None else strides
        counts = [np.zeros(table.shape, dtype=np.int64) for table in self.frequencies]
        for codes in clips:
            self._count(checked_clip(codes, self.codebook_sizes), strides, counts)
        return tuple(counts)

    def _count(self, codes: Integers, strides: Sequence[int], counts: list[Integers]) -> None:
        """Add the symbols of one clip `[N, T]` to `counts`, in place."""
        values = [symbol_values(codes, symbol) for symbol in self.symbols]
        for symbol, digits, count in zip(self.symbols, values, counts, strict=True):
            row = np.zeros(codes.shape[1], dtype=np.int64)
            for context in symbol.contexts:
                other = values[context.symbol]
                if context.lag:
                    other = np.concatenate([[self.symbols[context.symbol].radix], other[:-1]])[: len(other)]
                row = (
                    row * num_context_values(context, self.symbols)
                    + context_values(context, self.symbols)[other]
                )
            present = digits < symbol.radix
            present[np.arange(len(present)) % strides[symbol.codebook] != 0] = False
            np.add.at(count, (row[present], digits[present]), 1)


def num_context_values(context: SymbolContext, symbols: Sequence[Symbol]) -> int:
    """Return the number of values of a context, including the one for absence."""
    if context.classes is None:
        return symbols[context.symbol].radix + 1
    return int(context.classes.max()) + 2


def num_contexts(symbol: Symbol, symbols: Sequence[Symbol]) -> int:
    """Return C, the number of rows in the table of a symbol."""
    return math.prod(num_context_values(context, symbols) for context in symbol.contexts)


def context_values(context: SymbolContext, symbols: Sequence[Symbol]) -> Integers:
    """Return the context value of each symbol value, and of its absence at the end: `[R + 1]`."""
    if context.classes is None:
        return np.arange(symbols[context.symbol].radix + 1)
    return np.append(context.classes, context.classes.max() + 1)


def symbol_values(codes: Integers, symbol: Symbol) -> Integers:
    """Return the values `[T]` of a symbol in codes `[N, T]`; R for absent codes."""
    book = codes[symbol.codebook]
    return np.where(book < 0, symbol.radix, book // symbol.place % symbol.radix)


def checked_clip(codes: Any, sizes: Sequence[int]) -> Integers:  # Any: see `with_counts`
    """Return the codes `[N, T]` of a clip as integers; raises OptionError for other shapes or values."""
    values = _integers(codes, "codes")
    if values.ndim != 2 or len(values) != len(sizes):
        raise OptionError(f"codes have shape {list(values.shape)}; [N, T] with N = {len(sizes)} is needed")
    if values.size and ((values < -1) | (values >= np.array(sizes)[:, None])).any():
        raise OptionError(f"codes are from {values.min()} to {values.max()}; codebooks have {tuple(sizes)}")
    return values


def smoothed_frequencies(counts: Integers, total: int) -> Integers:
    """Return integer frequencies `[C, R]` with a row sum of about `total`.

    R / 4 occurrences with the distribution of the symbol without context are added to each row. Every
    frequency is at least 1.
    """
    radix = counts.shape[1]
    marginal = counts.sum(axis=0) + 0.5
    mixed = counts + radix / 4 * marginal / marginal.sum()
    shares = mixed / mixed.sum(axis=1, keepdims=True)
    return np.maximum(1, np.round(total * shares)).astype(np.int64)


def _symbols(
    sizes: Sequence[int], levels: Sequence[int] | None, contexts: Sequence[str], classes: Sequence[Any] | None
) -> Iterator[Symbol]:
    unknown = [name for name in contexts if name not in CONTEXTS]
    if unknown:
        raise OptionError(f"context {unknown[0]!r} is none of {', '.join(CONTEXTS)}")
    if classes is not None and (levels is not None or len(classes) != len(sizes)):
        raise OptionError("classes are for whole codes: give an array [K] for each codebook, and no levels")
    digits = 1 if levels is None else len(levels)
    for codebook, size in enumerate(sizes):
        radices = [size] if levels is None else [int(level) for level in levels]
        if math.prod(radices) < size:
            raise OptionError(
                f"levels {radices} make {math.prod(radices)} codes; codebook {codebook} has {size}"
            )
        place = 1
        for digit, radix in enumerate(radices):
            at = codebook * digits + digit
            available = [("previous", at, 1)]
            available += [("below", at - digits, 0)] if codebook else []
            available += [("digit", at - 1, 0)] if digit else []
            chosen = tuple(
                SymbolContext(other, lag, None if classes is None else classes[other])
                for name, other, lag in available
                if name in contexts
            )
            yield Symbol(codebook, place, radix, chosen)
            place *= radix


def _ones(symbol: Symbol, symbols: Sequence[Symbol]) -> Integers:
    rows = num_contexts(symbol, symbols)
    if rows * symbol.radix > MAX_ENTRIES:
        raise OptionError(
            f"a table of {rows} contexts and {symbol.radix} values is larger than {MAX_ENTRIES:,} entries. "
            "Use fewer contexts, classes, or levels."
        )
    return np.ones((rows, symbol.radix), dtype=np.int64)


def _moved(symbol: Symbol, codebooks: int, symbols: int) -> Symbol:
    """Return a symbol of a table that is appended after this many codebooks and symbols."""
    contexts = tuple(replace(context, symbol=context.symbol + symbols) for context in symbol.contexts)
    return replace(symbol, codebook=symbol.codebook + codebooks, contexts=contexts)


def _check_symbols(symbols: Sequence[Symbol], sizes: Sequence[int]) -> None:
    """Raise OptionError if symbols do not compose the codes, or depend on symbols decoded after them."""
    places = dict.fromkeys(range(len(sizes)), 1)
    for at, symbol in enumerate(symbols):
        if places.get(symbol.codebook) != symbol.place or (at and symbol.codebook < symbols[at - 1].codebook):
            raise OptionError(f"symbol {at} is not the next digit of the codes of its codebook: {symbol}")
        places[symbol.codebook] *= symbol.radix
        for context in symbol.contexts:
            _check_context(context, at, symbols)
    for codebook, size in enumerate(sizes):
        if not size <= places[codebook] < 1 << 63:
            raise OptionError(
                f"the symbols of codebook {codebook} make {places[codebook]} codes, but it has {size}"
            )


def _check_context(context: SymbolContext, at: int, symbols: Sequence[Symbol]) -> None:
    other = context.symbol
    known = 0 <= other < len(symbols) and context.lag in (0, 1)
    if known and context.lag:
        known = symbols[other].codebook <= symbols[at].codebook
    if not known or (context.lag == 0 and other >= at):
        raise OptionError(
            f"symbol {at} cannot depend on symbol {other} at lag {context.lag}. "
            "A context is an earlier symbol of the same frame (lag 0), or a symbol of the same or an earlier "
            "codebook in the previous frame (lag 1)."
        )
    classes = context.classes
    if classes is not None and len(classes) != symbols[other].radix:
        raise OptionError(
            f"{len(classes)} classes are given for the {symbols[other].radix} values of symbol {other}"
        )


def _integers(values: Any, what: str) -> Integers:  # Any: an array or tensor
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if array.dtype.kind not in "iu":
        raise OptionError(f"{what} are {array.dtype}; integers are needed")
    integers: Integers = array.astype(np.int64)
    integers.flags.writeable = False  # the hash of tables is cached
    return integers
