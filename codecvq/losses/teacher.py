"""`Teacher`: a frozen network whose features of the recorded audio losses compare with."""

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
    """Features of audio. It does not learn: it is always in eval mode, its parameters have no gradient, and
    checkpoints do not hold it. A gradient to the audio passes through.

    The constructor is called with `sample_rate` of the audio and the teacher's options as keywords, and sets
    the three attributes. A frame's time is that of its centre, where sample n lasts from n to n + 1 over the
    sample rate.
    """

    dim: int  # channels of the features
    frame_rate: Fraction  # frames a second
    first_s: Fraction  # time of the first frame

    def features(self, wav: Tensor) -> Tensor:
        """Features of audio: `[B, C, S]` -> float32 `[B, dim, frames]`."""
        raise NotImplementedError(f"{type(self).__name__} must define features(wav) -> [B, dim, frames]")

    def forward(self, wav: Tensor) -> Tensor:
        """The same as `features`."""
        return self.features(wav)

    def freeze(self) -> None:
        """Set eval mode and take the gradients off, once and for all."""
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Teacher:
        """Change nothing: a teacher is in eval mode."""
        return self


def build_teacher(options: str | Mapping[str, Any], *, sample_rate: int) -> Teacher:
    """The frozen teacher that a loss's option `teacher` describes, for audio of `sample_rate`: a registered
    name, or a mapping with `name` and the options of that teacher.

    Raises UnknownName and OptionError, which name what is known.
    """
    given = {"name": options} if isinstance(options, str) else dict(options)
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise OptionError(
            f"teacher is {shortened(options)}; needed is a name, as mfcc, or a mapping with name and "
            "options. See: codecvq plugins list --kind teachers"
        )
    registration, what = registry().find(TeacherSpec, name), f"teacher {name!r}"
    check_options(what, registration, given, ("sample_rate",))
    teacher = build_from_options(what, registration.make, {"sample_rate": sample_rate, **given})
    if not isinstance(teacher, Teacher):
        raise OptionError(
            f"{what} of {registration.origin} is a {type(teacher).__name__}, not a codecvq.losses.Teacher"
        )
    teacher.freeze()
    return teacher
