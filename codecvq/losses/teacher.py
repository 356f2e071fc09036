"""`Teacher`: a frozen feature extractor that losses use as reference."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from codecvq.api.hookspecs import TeacherSpec
from codecvq.errors import OptionError
from codecvq.plugins import registry
from codecvq.plugins.options import build_from_options, check_options, shortened


class Teacher(nn.Module):
    """Base class of frozen feature extractors.

    A teacher is always in eval mode, its parameters have no gradient, and checkpoints do not contain it. The
    gradient flows through it to the audio.

    The constructor is called with the `sample_rate` of the audio and the options of the teacher, and sets the
    three attributes. The time of a frame is the time of its center. Sample n lasts from n / `sample_rate` to
    (n + 1) / `sample_rate`.
    """

    dim: int  # number of feature channels
    frame_rate: Fraction  # frames per second
    first_s: Fraction  # time of the first frame in seconds

    def features(self, wav: Tensor) -> Tensor:
        """Return features of audio: `[B, C, S]` -> float32 `[B, dim, frames]`."""
        raise NotImplementedError(f"{type(self).__name__} must define features(wav) -> [B, dim, frames]")

    def forward(self, wav: Tensor) -> Tensor:
        """Same as `features`."""
        return self.features(wav)

    def freeze(self) -> None:
        """Set eval mode and disable the gradients of all parameters."""
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Teacher:
        """Do nothing: a teacher stays in eval mode."""
        return self


def build_teacher(options: str | Mapping[str, Any], *, sample_rate: int) -> Teacher:
    """Build the frozen teacher for the option `teacher` of a loss, for audio with `sample_rate`.

    `options` is a registered name, or a mapping with `name` and the options of the teacher. Raises
    UnknownName for an unknown teacher and OptionError for invalid options.
    """
    arguments = {"name": options} if isinstance(options, str) else dict(options)
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise OptionError(
            f"teacher is {shortened(options)}; needed is a name, such as mfcc, or a mapping with name "
            "and options. See: codecvq plugins list --kind teachers"
        )
    registration, label = registry().find(TeacherSpec, name), f"teacher {name!r}"
    check_options(label, registration, arguments, ("sample_rate",))
    teacher = build_from_options(label, registration.make, {"sample_rate": sample_rate, **arguments})
    if not isinstance(teacher, Teacher):
        raise OptionError(
            f"{label} of {registration.origin} is a {type(teacher).__name__}, not a codecvq.losses.Teacher"
        )
    teacher.freeze()
    return teacher
