"""Plugin that logs training scalars, validation audio and spectrograms to TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from codecvq.api.hookspecs import hookimpl

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from codecvq.api.training import TrainRun, ValidationSample

WINDOW, HOP = 512, 128  # of the spectrograms, in samples
RANGE_DB = 80.0


@hookimpl
def codecvq_train_start(run: TrainRun) -> None:
    """Open the event file. In a resumed run, events after the checkpoint are hidden."""
    from torch.utils.tensorboard import SummaryWriter

    run.state["board"] = SummaryWriter(str(run.folder.path / "tensorboard"), purge_step=run.first_step)


@hookimpl
def codecvq_train_logged(run: TrainRun, step: int, scalars: Mapping[str, float]) -> None:
    """Write all scalars and the latest validation samples; the originals only once."""
    writer = run.state["board"]
    for name, value in scalars.items():
        writer.add_scalar(name, value, step)
    for sample in run.validation_samples:
        _add_clip(writer, sample, step, with_original=not run.state.get("board_originals"))
    if run.validation_samples:
        run.state["board_originals"] = True
    writer.flush()


def _add_clip(writer: Any, sample: ValidationSample, step: int, with_original: bool) -> None:
    # writer: a SummaryWriter
    signals = {"decoded": sample.decoded} | ({"original": sample.reference} if with_original else {})
    for kind, samples in signals.items():
        tag = f"{sample.id}/{kind}"
        writer.add_audio(tag, samples[None], step, sample_rate=sample.sample_rate)
        writer.add_image(tag, spectrogram(samples), step, dataformats="HW")


def spectrogram(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Spectrogram image of samples `[S]`: `[257, frames]`, 0 to 1 over 80 dB, highest frequency on top."""
    import numpy as np

    padded = np.pad(samples, (WINDOW // 2, WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32)))).T[::-1]
    level_db = 10 * np.log10(np.maximum(power / max(float(power.max()), 1e-12), 10 ** (-RANGE_DB / 10)))
    return (level_db / RANGE_DB + 1).astype(np.float32)
