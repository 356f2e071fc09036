"""Groups of unequal width and kind: a grid for the first channels, a codebook for the others."""

from codecvq import QuantizerSpec, build_quantizer, hookimpl


def unequal_groups(dim, levels=(5, 5, 5), codebook_size=256):
    """FSQ on the first `len(levels)` channels, VQ on the rest."""
    first = len(levels)
    groups = [{"name": "fsq", "levels": list(levels)}, {"name": "vq", "codebook_size": codebook_size}]
    return build_quantizer("grouped", dim=dim, of=groups, dims=[first, dim - first])


@hookimpl
def codecvq_quantizers():
    yield QuantizerSpec(name="unequal_groups", factory=unequal_groups, summary="a grid and a codebook")
