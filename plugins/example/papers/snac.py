"""SNAC (arXiv:2410.14411): factorized residual codebooks at different frame rates, the slowest first."""

from codecvq import QuantizerSpec, build_quantizer, hookimpl


def snac(dim, codebook_size=4096, *, codebook_dim=8, strides=(4, 2, 1), dropout=0.0):
    """A multiscale stack of low-dimensional codebooks with cosine distance."""
    codebook = {
        "name": "vq",
        "codebook_size": codebook_size,
        "codebook_dim": codebook_dim,
        "distance": "cosine",
    }
    return build_quantizer("multiscale", dim=dim, of=codebook, strides=list(strides), dropout=dropout)


@hookimpl
def codecvq_quantizers():
    yield QuantizerSpec(
        name="snac",
        factory=snac,
        summary="residual codebooks at different rates",
        reference="arXiv:2410.14411",
    )
