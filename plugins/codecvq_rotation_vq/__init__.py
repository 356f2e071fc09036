"""Vector quantization with the rotation trick, and the rotation as an estimator for any quantizer."""

from collections.abc import Iterable

from codecvq import EstimatorSpec, QuantizerSpec, hookimpl


@hookimpl
def codecvq_quantizers() -> Iterable[QuantizerSpec]:
    """Register `rotation_vq`."""
    yield QuantizerSpec(
        name="rotation_vq",
        factory="codecvq_rotation_vq.quantizer:RotationVQ",
        options="codecvq_vq.quantizer:VQ",
        summary="vq whose gradient is rotated and scaled like its input",
        reference="arXiv:2410.06424",
    )


@hookimpl
def codecvq_estimators() -> Iterable[EstimatorSpec]:
    """Register `rotation` and `rotation_unscaled`."""
    yield EstimatorSpec(
        name="rotation",
        factory="codecvq_rotation_vq.estimator:rotation",
        summary="rotation trick: rotates and scales the gradient by the map from z to q",
        reference="arXiv:2410.06424",
    )
    yield EstimatorSpec(
        name="rotation_unscaled",
        factory="codecvq_rotation_vq.estimator:rotation_unscaled",
        summary="rotation trick without the scale: rotates the gradient and preserves its length",
        reference="arXiv:2410.06424",
    )
