"""Learns the code tables of a codec: which symbols select the frequencies of which, and the frequencies.

A symbol is one digit of a code, see `Quantizer.code_levels`. The search starts with one row of frequencies
per symbol (order 0). It then adds contexts to each symbol, the best one first, while a context saves at least
`MIN_GAIN` of the symbol's bits. Savings are measured on validation codes, which are not counted. Contexts can
be symbols of the same frame and of the previous frame, in the same codebook, the codebook before it and the
first codebook. The first n codebooks therefore never depend on later ones. A context with too many values is
reduced to classes of values.

The codes are cut into pieces: at the start of each piece the previous frame is absent, as at the start of a
chunk of a `.cvq` file.

Letters: N codebooks, T frames, F frames of all clips, R radix of a symbol, C contexts of a symbol.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codecvq.api.code_tables import (
    CodeTables,
    Integers,
    Symbol,
    SymbolContext,
    checked_clip,
    context_values,
    num_context_values,
    num_contexts,
    smoothed_frequencies,
    symbol_values,
)
from codecvq.quantizer.tables import size_levels

MIN_TOTAL, TOTAL_PER_VALUE = 1 << 12, 32  # sum of a row of frequencies: small numbers for small files
MIN_COUNTED, MIN_VALIDATION = 1000, 200  # frames: fewer do not show which contexts save bits
MAX_CONTEXTS = 4  # of a symbol
MAX_CHAIN = 2  # length of a chain of contexts in a frame: each link is another call of the range coder
MIN_GAIN = 0.002  # of a symbol's bits
CANDIDATES = 12  # contexts that are tried again after the first one is chosen
MAX_TABLE = 3072  # frequencies of a symbol, or MAX_ROWS rows of a symbol with many values
MAX_ROWS = 16
MAX_ENTRIES = 1 << 17  # frequencies of all symbols
MIN_CLASSED = 33  # radix from which a context may be reduced to classes
MAX_PAIRS = 1 << 22  # pairs of values that are counted for classes
CLASS_ROUNDS = 12  # of k-means


@dataclass(frozen=True)
class LearnedTables:
    """Tables, and the bits per frame that the validation codes take with them and without."""

    tables: CodeTables
    packed_bits: float  # log2 of the codebook sizes
    order_0_bits: float  # digits with their frequencies, without contexts
    table_bits: float  # with these tables, at a constant step 0


def learn_tables(
    counted: Iterable[npt.ArrayLike],
    validation: Iterable[npt.ArrayLike],
    codebook_sizes: Sequence[int],
    *,
    levels: Sequence[Sequence[int]],
    strides: Sequence[int] | None = None,
    piece: int,
    step: int = 0,
) -> LearnedTables | None:
    """Learn tables from the codes `[N, T]` of clips; absent codes are -1.

    Args:
        counted: clips whose codes are counted.
        validation: other clips, which decide on contexts.
        codebook_sizes: K of each codebook.
        levels: for each codebook the radices of the digits of its codes, least significant first.
        strides: frames per code of each codebook, by default 1.
        piece: frames of a piece, rounded up to a multiple of all strides.
        step: `CodeTables.step` of the result. In chunks of a second, adapting the tables saves no bits
            (`benchmarks/learned_rate.py`), and constant tables are coded faster.

    Returns None if there are fewer than 1000 counted frames or 200 validation frames, or if the symbols have
    more than `MAX_ENTRIES` values in total. Raises OptionError for codes that do not match the codebooks.
    """
    sizes, own_strides = tuple(codebook_sizes), tuple(strides or (1,) * len(codebook_sizes))
    digits = [[part for radix in radices for part in size_levels(radix)] for radices in levels]
    plain = [CodeTables.uniform((size,), levels=own) for size, own in zip(sizes, digits, strict=True)]
    symbols = CodeTables.join(plain).symbols
    whole = math.lcm(*own_strides)
    piece = -(-piece // whole) * whole
    train = _Codes.gather(counted, symbols, sizes, own_strides, piece)
    held_out = _Codes.gather(validation, symbols, sizes, own_strides, piece)
    if train.frames < MIN_COUNTED or held_out.frames < MIN_VALIDATION:
        return None
    if sum(symbol.radix for symbol in symbols) > MAX_ENTRIES:
        return None
    search = _Search(symbols, train, held_out)
    for at in range(len(symbols)):
        search.choose(at)
    chosen = tuple(search.symbols)
    frequencies = tuple(_frequencies(train.counts(symbol, at, chosen)) for at, symbol in enumerate(chosen))
    shares = [held_out.coded[book].mean() for book in range(len(sizes))]
    return LearnedTables(
        CodeTables(sizes, chosen, frequencies, step),
        float(sum(share * math.log2(size) for share, size in zip(shares, sizes, strict=True))),
        sum(search.order_0_bits) / held_out.frames,
        sum(search.bits) / held_out.frames,
    )


@dataclass(frozen=True)
class _Codes:
    """The symbols of all frames of some clips, in two states: in this frame, and in the one before."""

    values: tuple[list[npt.NDArray[np.int16]], list[npt.NDArray[np.int16]]]  # [lag][symbol] -> [F]
    coded: npt.NDArray[np.bool_]  # [N, F]: the codes that a file stores
    frames: int

    @classmethod
    def gather(
        cls,
        clips: Iterable[npt.ArrayLike],
        symbols: Sequence[Symbol],
        sizes: Sequence[int],
        strides: Sequence[int],
        piece: int,
    ) -> _Codes:
        now: list[list[npt.NDArray[np.int16]]] = [[] for _ in symbols]
        before: list[list[npt.NDArray[np.int16]]] = [[] for _ in symbols]
        coded = [np.zeros((len(sizes), 0), dtype=bool)]
        for clip in clips:
            codes = checked_clip(clip, sizes)
            frames = np.arange(codes.shape[1])
            starts = frames % np.array(strides)[:, None] == 0
            coded.append(starts & (codes >= 0))
            for at, symbol in enumerate(symbols):
                values = symbol_values(codes, symbol).astype(np.int16)
                now[at].append(values)
                shifted = np.roll(values, 1)
                shifted[::piece] = symbol.radix
                before[at].append(shifted)
        empty = np.zeros(0, dtype=np.int16)
        joined = [[np.concatenate([empty, *parts]) for parts in lag] for lag in (now, before)]
        mask = np.concatenate(coded, axis=1)
        return cls((joined[0], joined[1]), mask, mask.shape[1])

    def rows(self, symbol: Symbol, symbols: Sequence[Symbol]) -> Integers:
        """Return the row in the table of a symbol, in each frame in which it is coded."""
        coded = self.coded[symbol.codebook]
        rows = np.zeros(int(coded.sum()), dtype=np.int64)
        for context in symbol.contexts:
            rows *= num_context_values(context, symbols)
            rows += context_values(context, symbols)[self.values[context.lag][context.symbol][coded]]
        return rows

    def coded_values(self, symbol: Symbol, at: int) -> Integers:
        """Return the values of symbol `at` in the frames in which it is coded."""
        return self.values[0][at][self.coded[symbol.codebook]].astype(np.int64)

    def counts(self, symbol: Symbol, at: int, symbols: Sequence[Symbol]) -> Integers:
        """Return how often each value occurs in each context: `[C, R]`."""
        rows, radix = self.rows(symbol, symbols), symbol.radix
        contexts = num_contexts(symbol, symbols)
        flat = np.bincount(rows * radix + self.coded_values(symbol, at), minlength=contexts * radix)
        return flat.reshape(contexts, radix)


class _Search:
    """The contexts that are chosen until now. Symbols are completed in order."""

    def __init__(self, symbols: Sequence[Symbol], train: _Codes, held_out: _Codes) -> None:
        self.symbols, self.train, self.held_out = list(symbols), train, held_out
        self.links = [0] * len(symbols)  # of the longest chain of contexts in a frame that ends at a symbol
        self.order_0_bits: list[float] = []  # of the validation codes, by symbol
        self.bits: list[float] = []  # the same with contexts

    def choose(self, at: int) -> None:
        """Choose the contexts of symbol `at`."""
        symbol = self.symbols[at]
        best = self._bits(symbol, at)
        self.order_0_bits.append(best)
        candidates = self._candidates(at)
        while len(symbol.contexts) < MAX_CONTEXTS:
            options = []
            for lag, other in candidates:
                wider = self._with_context(symbol, at, other, lag)
                if wider is not None:
                    options.append((self._bits(wider, at), (lag, other), wider))
            options.sort(key=lambda option: option[0])
            if not symbol.contexts:
                candidates = [context for _, context, _ in options[:CANDIDATES]]
            if not options or options[0][0] > best * (1 - MIN_GAIN):
                break
            best, used, symbol = options[0]
            candidates = [context for context in candidates if context != used]
        self.symbols[at] = symbol
        in_frame = [self.links[context.symbol] + 1 for context in symbol.contexts if context.lag == 0]
        self.links[at] = max(in_frame, default=0)
        self.bits.append(best)

    def _candidates(self, at: int) -> list[tuple[int, int]]:
        """Return (lag, symbol) of the possible contexts of symbol `at`."""
        book = self.symbols[at].codebook
        near = [n for n, other in enumerate(self.symbols) if other.codebook in (0, book - 1, book)]
        earlier = [(0, n) for n in near if n < at and self.links[n] < MAX_CHAIN]
        return [(1, n) for n in near if self.symbols[n].codebook <= book] + earlier

    def _with_context(self, symbol: Symbol, at: int, other: int, lag: int) -> Symbol | None:
        """Return the symbol with one more context, reduced to classes if necessary; None if too large."""
        rows = num_contexts(symbol, self.symbols)
        limit = min(max(MAX_TABLE, MAX_ROWS * symbol.radix), MAX_ENTRIES // len(self.symbols))
        affordable, radix = limit // (rows * symbol.radix), self.symbols[other].radix
        classes = None
        if radix + 1 > affordable:
            if affordable < 3 or radix < MIN_CLASSED or radix * symbol.radix > MAX_PAIRS:
                return None
            single = Symbol(symbol.codebook, symbol.place, symbol.radix, (SymbolContext(other, lag),))
            pairs = self.train.counts(single, at, self.symbols)[:-1]
            classes = similar_rows(pairs, affordable - 1)
        contexts = (*symbol.contexts, SymbolContext(other, lag, classes))
        return Symbol(symbol.codebook, symbol.place, symbol.radix, contexts)

    def _bits(self, symbol: Symbol, at: int) -> float:
        """Return the bits of symbol `at` in the validation codes, with frequencies of the counted codes."""
        frequencies = _frequencies(self.train.counts(symbol, at, self.symbols))
        costs = np.log2(frequencies.sum(axis=1, keepdims=True)) - np.log2(frequencies)
        rows = self.held_out.rows(symbol, self.symbols)
        return float(costs[rows, self.held_out.coded_values(symbol, at)].sum())


def _frequencies(counts: Integers) -> Integers:
    """Return the frequencies `[C, R]` of these counts."""
    return smoothed_frequencies(counts, max(MIN_TOTAL, TOTAL_PER_VALUE * counts.shape[1]))


def similar_rows(counts: Integers, classes: int) -> Integers:
    """Return a class, 0 to `classes` - 1, for each row of counts `[R, K]`: `[R]`.

    Rows of a class have similar distributions: k-means with the Kullback-Leibler divergence. Computed from
    the most frequent rows on, without random numbers.
    """
    shares = counts.astype(np.float64)  # products of integer matrices are slow
    marginal = (shares.sum(axis=0) + 0.5) / (shares.sum() + 0.5 * counts.shape[1])
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    assigned = np.zeros(len(counts), dtype=np.int64)
    assigned[order] = np.arange(len(counts)) % classes
    for _ in range(CLASS_ROUNDS):
        sums = (assigned == np.arange(classes)[:, None]).astype(np.float64) @ shares
        centers = (sums + MAX_ROWS * marginal) / (sums.sum(axis=1, keepdims=True) + MAX_ROWS)
        assigned = (shares @ np.log(centers).T).argmax(axis=1)
    return np.unique(assigned, return_inverse=True)[1].reshape(-1).astype(np.int64)
