"""`rotation_vq`: `vq` with the rotation trick and defaults under which it does not collapse.

The scale |q|/|z| of the trick shrinks z where q is short, and strands codewords at the radius where k-means
put them; what cures it is the replacement of dead codewords (see this folder's README).
"""

from __future__ import annotations

from typing import Literal

from codecvq_vq.quantizer import VQ


class RotationVQ(VQ):
    """`vq` with `estimator="rotation"`; all other options are those of `vq`."""

    def __init__(
        self,
        dim: int,
        codebook_size: int = 1024,
        *,
        codebook_dim: int | None = None,
        distance: Literal["euclidean", "cosine"] = "euclidean",
        learn: Literal["ema", "gradient"] = "ema",
        decay: float = 0.99,
        init: Literal["kmeans", "random"] = "kmeans",
        dead_code_threshold: float = 0.2,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        estimator: str = "rotation",
    ) -> None:
        super().__init__(
            dim,
            codebook_size,
            codebook_dim=codebook_dim,
            distance=distance,
            learn=learn,
            decay=decay,
            init=init,
            dead_code_threshold=dead_code_threshold,
            commitment_weight=commitment_weight,
            codebook_weight=codebook_weight,
            estimator=estimator,
        )
