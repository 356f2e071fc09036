"""codecvq's quantizers compared with vector-quantize-pytorch 1.32.0 (the peer): time, memory and codes.

    pip install vector-quantize-pytorch==1.32.0
    python benchmarks/quantizers.py [--only residual_vq] [--quick] [--device cuda] [--json out.json]
    python benchmarks/quantizers.py --table out.json  # the table of docs/benchmarks.md

Both sides have the same codebooks and get the same N vectors, each in its own layout (codecvq `[B, D, T]`,
the peer `[B, T, D]`). They run interleaved in one process on one thread. Times are medians of processor
time. `encode` computes codes in eval mode. `train` is forward and backward in training mode, with each side's
own losses and codebook updates (codecvq also computes metrics and replaces dead codes). `decode` maps codes
to values. Memory is the growth of the resident set in one step of a fresh process, after a step with 8
vectors. On a GPU, times are wall times between two synchronizations, and memory is not measured.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import codecvq
from codecvq.processor import processor_name

MIN_MEASURED_S = 0.02  # faster steps are repeated within a measurement
WARM_UP_VECTORS = 8
SEED = 20_26


@dataclass(frozen=True)
class Case:
    """One quantizer with one set of sizes, on both sides."""

    name: str
    dim: int
    make: Callable[[], tuple[nn.Module, codecvq.Quantizer]]  # the peer's and ours, with the same codebooks
    modes: tuple[str, ...] = ("encode", "train")
    to_our_codes: Callable[[Tensor], Tensor] = lambda codes: codes  # converts the peer's [B, T] or [B, T, N]
    peer_vectors: int | None = None  # fewer vectors for a slow peer; its results are scaled up
    spread: float = 1.0  # standard deviation of the vectors


@dataclass(frozen=True)
class Row:
    """The results of one case in one mode with N vectors."""

    quantizer: str
    mode: str
    vectors: int
    peer_ms: float
    ours_ms: float
    peer_mb: float | None
    ours_mb: float | None
    different_codes: int | None  # of `codes`; None if codes were not compared
    codes: int
    peer_vectors: int  # fewer than `vectors` if the peer's results are scaled up


# Both sides of each case


def vq(size: int, dim: int) -> tuple[nn.Module, codecvq.Quantizer]:
    from vector_quantize_pytorch import VectorQuantize

    peer = VectorQuantize(dim, size, decay=0.99, rotation_trick=False)
    ours = codecvq.build_quantizer("vq", dim=dim, codebook_size=size, init="random")
    _copy_codebook(peer, ours, torch.randn(size, dim))
    return peer, ours


def residual_vq(stages: int, size: int, dim: int) -> tuple[nn.Module, codecvq.Quantizer]:
    from vector_quantize_pytorch import ResidualVQ

    peer = ResidualVQ(dim=dim, codebook_size=size, num_quantizers=stages, decay=0.99, rotation_trick=False)
    ours = codecvq.build_quantizer(
        "residual_vq", dim=dim, codebook_size=size, num_codebooks=stages, init="random"
    )
    for stage, layer in enumerate(peer.layers):
        _copy_codebook(layer, ours.get_submodule(f"stages.{stage}"), torch.randn(size, dim) * 0.8**stage)
    return peer, ours


def _copy_codebook(peer: nn.Module, ours: nn.Module, codebook: Tensor) -> None:
    state = {"_codebook.embed": codebook[None], "_codebook.embed_avg": codebook[None]}
    peer.load_state_dict(state, strict=False)
    ours.load_state_dict({"codebook": codebook}, strict=False)


def simvq(size: int, dim: int) -> tuple[nn.Module, codecvq.Quantizer]:
    from vector_quantize_pytorch import SimVQ

    peer = SimVQ(dim=dim, codebook_size=size, rotation_trick=False)
    ours = codecvq.build_quantizer("simvq", dim=dim, codebook_size=size)
    state = peer.state_dict()
    ours.load_state_dict({"frozen": state["frozen_codebook"], "map.weight": state["code_transform.weight"]})
    return peer, ours


def lfq(bits: int) -> tuple[nn.Module, codecvq.Quantizer]:
    from vector_quantize_pytorch import LFQ

    # The peer's inverse temperature is 100: a temperature of 1/100 in units of the code's scale.
    return LFQ(codebook_size=2**bits, dim=bits), codecvq.build_quantizer(
        "lfq", dim=bits, bits=bits, temperature=0.01, commitment_weight=0.0
    )


def fsq(levels: list[int]) -> tuple[nn.Module, codecvq.Quantizer]:
    from vector_quantize_pytorch import FSQ

    peer = FSQ(levels, preserve_symmetry=True)
    return peer, codecvq.build_quantizer("fsq", dim=len(levels), levels=levels)


def residual_fsq(stages: int, levels: list[int]) -> tuple[nn.Module, codecvq.Quantizer]:
    from vector_quantize_pytorch import ResidualFSQ

    peer = ResidualFSQ(levels=levels, num_quantizers=stages)
    return peer, codecvq.build_quantizer("residual_fsq", dim=len(levels), levels=levels, num_codebooks=stages)


def _reverse_bits(bits: int) -> Callable[[Tensor], Tensor]:
    """Return a function that reverses the bits of codes; the peer's highest bit is the first channel."""
    return lambda codes: sum((codes >> bit & 1) << (bits - 1 - bit) for bit in range(bits))  # type: ignore[return-value]


def all_cases(quick: bool) -> Iterator[Case]:
    for size, dim in ((1024, 128), (8192, 8), (8192, 64)):
        yield Case(f"vq {size}×{dim}", dim, lambda size=size, dim=dim: vq(size, dim))
    yield Case("residual_vq 8×1024×128", 128, lambda: residual_vq(8, 1024, 128))
    for size in (8192, 65536):
        yield Case(
            f"simvq {size}×128", 128, lambda size=size: simvq(size, 128), ("encode", "train", "decode")
        )
    for bits, vectors in ((10, None), (14, 1024 if quick else None), (18, 128)):
        yield Case(
            f"lfq 2^{bits}",
            bits,
            lambda bits=bits: lfq(bits),
            # The peer needs a table of all codes for encoding too.
            ("train",) if bits > 16 else ("encode", "train"),
            to_our_codes=_reverse_bits(bits),
            peer_vectors=vectors,
        )
    yield Case("fsq 8,5,5,5", 4, lambda: fsq([8, 5, 5, 5]), ("encode", "train"))
    yield Case("residual_fsq 8×(8,5,5,5)", 4, lambda: residual_fsq(8, [8, 5, 5, 5]))


# One step


def step_of(case: Case, side: str, mode: str, vectors: int, device: str = "cpu") -> Callable[[], Tensor]:
    """A function that runs one step and returns the codes; both sides get the same vectors and weights."""
    torch.manual_seed(SEED)
    peer, ours = case.make()
    batch = 8 if vectors % 8 == 0 else 1
    rows = (case.spread * torch.randn(batch, vectors // batch, case.dim)).to(device)
    quantizer = (peer if side == "peer" else ours).to(device).train(mode == "train")
    latents = rows if side == "peer" else rows.mT.contiguous()
    call = _peer_call(quantizer) if side == "peer" else _our_call(quantizer)
    if mode == "encode":
        return _encoding(quantizer, latents, side)
    if mode == "decode":
        return _decoding(quantizer, _encoding(quantizer, latents, side)(), side)
    return _training(quantizer, latents, call)


def _peer_call(quantizer: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor, list[Tensor]]]:
    def call(latents: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        quantized, codes, *losses = quantizer(latents)
        return quantized, codes, losses

    return call


def _our_call(quantizer: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor, list[Tensor]]]:
    def call(latents: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        out = quantizer(latents)
        return out.latents, out.codes, list(out.losses.values())

    return call


def _encoding(quantizer: Any, latents: Tensor, side: str) -> Callable[[], Tensor]:
    @torch.no_grad()
    def encode() -> Tensor:
        return quantizer(latents)[1] if side == "peer" else quantizer.encode(latents)

    return encode


def _decoding(quantizer: Any, codes: Tensor, side: str) -> Callable[[], Tensor]:
    @torch.no_grad()
    def decode() -> Tensor:
        return quantizer.indices_to_codes(codes) if side == "peer" else quantizer.decode(codes).mT

    return decode


def _training(
    quantizer: nn.Module, latents: Tensor, call: Callable[[Tensor], tuple[Tensor, Tensor, list[Tensor]]]
) -> Callable[[], Tensor]:
    latents.requires_grad_()
    upstream = torch.randn(latents.shape).to(latents.device)

    def train() -> Tensor:
        latents.grad = None
        quantizer.zero_grad()
        quantized, codes, losses = call(latents)
        loss = (quantized * upstream).sum()
        for term in losses:
            loss = loss + term.sum()
        loss.backward()
        return codes

    return train


# Measurement


def measure(case: Case, mode: str, vectors: int, repeats: int, memory: bool, device: str = "cpu") -> Row:
    fewer = min(vectors, case.peer_vectors or vectors) if mode == "train" else vectors
    sizes = {"peer": fewer, "ours": vectors}
    steps = {side: step_of(case, side, mode, size, device) for side, size in sizes.items()}
    first = {side: step() for side, step in steps.items()}  # before any codebook update
    times = interleaved_times(steps, repeats)
    growth = {
        side: peak_growth(case, side, mode, fewer if side == "peer" else vectors) if memory else None
        for side in steps
    }
    scale = vectors / fewer
    compared = _differences(case, mode, first) if fewer == vectors else (None, 0)
    return Row(
        case.name,
        mode,
        vectors,
        1000 * scale * median(times["peer"]),
        1000 * median(times["ours"]),
        None if growth["peer"] is None else scale * growth["peer"],
        growth["ours"],
        *compared,
        fewer,
    )


def _differences(case: Case, mode: str, first: dict[str, Tensor]) -> tuple[int, int]:
    """Number of different codes (after decode: of values that differ by more than 1e-5), and the total."""
    if mode == "decode":
        wrong = (first["peer"] - first["ours"]).abs() > 1e-5 * (1 + first["peer"].abs())
        return int(wrong.sum()), wrong.numel()
    peer = case.to_our_codes(first["peer"].long())
    peer = peer[:, None] if peer.ndim == 2 else peer.mT  # [B, N, T]
    return int((peer != first["ours"]).sum()), peer.numel()


def interleaved_times(steps: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, list[float]]:
    """Seconds per step (processor time, or wall time on a GPU), `repeats` of each side, interleaved."""
    loops = {
        side: max(1, math.ceil(MIN_MEASURED_S / max(_seconds(step, 1), 1e-6))) for side, step in steps.items()
    }
    times: dict[str, list[float]] = {side: [] for side in steps}
    for _ in range(repeats):
        for side, step in steps.items():
            times[side].append(_seconds(step, loops[side]))
    return times


def _seconds(step: Callable[[], Tensor], loops: int) -> float:
    on_gpu = step().is_cuda if torch.cuda.is_available() else False
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    for _ in range(loops):
        step()
    if on_gpu:
        torch.cuda.synchronize()
    return (clock() - start) / loops


def peak_growth(case: Case, side: str, mode: str, vectors: int) -> float | None:
    """Growth in MB of the resident set in a step of a fresh process after warm-up; None if not available."""
    arguments = ["--memory-of", case.name, side, mode, str(vectors)]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 and done.stdout.strip() else None


def print_peak_growth(name: str, side: str, mode: str, vectors: int) -> None:
    case = next(case for case in all_cases(quick=False) if case.name == name)
    step_of(case, side, mode, WARM_UP_VECTORS)()  # loads libraries before the measurement
    step = step_of(case, side, mode, vectors)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory freed by the first call would hide allocations
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to the current resident size
    before = _status_mb("VmRSS")
    step()
    print(max(0.0, _status_mb("VmHWM") - before))


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024 / 1e6


# Output


HEADER = (
    "| quantizer | step | N | peer ms | codecvq ms | faster "
    "| peer MB | codecvq MB | less | different codes |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def markdown(row: Row) -> str:
    scaled = "" if row.peer_vectors == row.vectors else f" (from N = {row.peer_vectors})"
    less = f"{row.peer_mb / max(row.ours_mb, 1):.1f}×" if row.peer_mb and row.ours_mb else "–"
    differ = "–" if row.different_codes is None else f"{row.different_codes} of {row.codes}"
    cells = [
        *(row.quantizer, row.mode, str(row.vectors), f"{row.peer_ms:.3g}{scaled}", f"{row.ours_ms:.3g}"),
        *(f"**{row.peer_ms / row.ours_ms:.3g}×**", _mb(row.peer_mb), _mb(row.ours_mb), less, differ),
    ]
    return f"| {' | '.join(cells)} |"


def page_table(rows: list[Row]) -> str:
    """The table of docs/benchmarks.md: one line per quantizer and step, the columns of each N together."""
    sizes = sorted({row.vectors for row in rows}, reverse=True)
    rows_by_key = {(row.quantizer, row.mode, row.vectors): row for row in rows}
    head = [f"{size:,} vectors, ms | faster | MB" for size in sizes]
    lines = [f"| quantizer | step | {' | '.join(head)} |", "|---|---" + "|---|---|---" * len(sizes) + "|"]
    for name, mode in dict.fromkeys((row.quantizer, row.mode) for row in rows):
        cells = [_three_cells(rows_by_key.get((name, mode, size))) for size in sizes]
        lines.append(f"| `{name}` | {mode} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _three_cells(row: Row | None) -> str:
    if row is None:
        return "– | – | –"
    scaled = "" if row.peer_vectors == row.vectors else f" (of {row.peer_vectors:,}, scaled)"
    times = f"{row.peer_ms:.3g}{scaled} / {row.ours_ms:.3g}"
    return f"{times} | {row.peer_ms / row.ours_ms:.3g} | {_mb(row.peer_mb)} / {_mb(row.ours_mb)}"


def _mb(megabytes: float | None) -> str:
    return "–" if megabytes is None else f"{megabytes:.0f}"


def machine(device: str = "cpu") -> str:
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    level = torch.backends.cpu.get_cpu_capability()
    return f"{processor_name()}, torch {torch.__version__} ({level}), one thread"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="run cases whose name contains one of these")
    parser.add_argument("--mode", default="", help="run only this step: encode, train or decode")
    parser.add_argument("--vectors", type=int, nargs="+", default=[8192, 75])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="5 repeats, no memory, slow peers scaled")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument(
        "--table", type=Path, help="print the table of docs/benchmarks.md from this JSON file and exit"
    )
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        name, side, mode, vectors = options.memory_of
        return print_peak_growth(name, side, mode, int(vectors))
    if options.table:
        results = json.loads(options.table.read_text())
        return print(f"{results['machine']}\n\n{page_table([Row(**row) for row in results['rows']])}")
    rows = []
    print(f"{machine(options.device)}\n\n{HEADER}", flush=True)
    for case in all_cases(options.quick):
        for mode in case.modes:
            for vectors in options.vectors:
                if not any(part in case.name for part in options.only) or options.mode not in mode:
                    continue
                repeats = 5 if options.quick else options.repeats
                memory = not options.quick and options.device == "cpu"
                rows.append(measure(case, mode, vectors, repeats, memory, options.device))
                print(markdown(rows[-1]), flush=True)
                if options.json:  # after each case, so that an interrupted run leaves its results
                    results = {"machine": machine(options.device), "rows": [asdict(row) for row in rows]}
                    options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
