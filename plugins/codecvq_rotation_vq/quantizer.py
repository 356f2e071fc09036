"""`rotation_vq`: `vq` with the rotation trick, and defaults with which the codebook does not collapse.

The scale |q|/|z| of the trick shrinks z where q is short, and leaves codewords unused at the radius where
k-means placed them. The replacement of dead codewords fixes this (see the page of this quantizer).
"""

from __future__ import annotations

from typing import Any

from codecvq_vq.quantizer import VQ


class RotationVQ(VQ):
    """`vq` with the defaults `estimator="rotation"` and `dead_code_threshold=0.2`; all options of `vq`."""

    def __init__(
        self, dim: int, *, dead_code_threshold: float = 0.2, estimator: str = "rotation", **options: Any
    ) -> None:
        super().__init__(dim, dead_code_threshold=dead_code_threshold, estimator=estimator, **options)
