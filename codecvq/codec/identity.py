"""The identity of a codec: hashes of everything that changes its codes or its samples.

Files and datasets record them. `codebooks_sha256` decides whether codes can be decoded: it covers the
encoder, the quantizer, their options, sample rate and channels, and leaves the decoder out, since another
decoder may be trained for the same codes. `weights_sha256` covers the decoder too: with equal ones, codes and
samples are equal.

Before codec format 2 the hashes covered the tensors and the quantizer's options only. What was written then
still decodes: `same_codebooks` and `same_weights` accept these earlier hashes too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from codecvq.codec import Codec

_DECODER = "decoder."
_DOMAIN = "codecvq.codec/2"


def codebooks_hash(
    tensors: Mapping[str, Tensor], build: Mapping[str, Any], decoder_options: Collection[str]
) -> str:
    """The codebooks hash. `build` holds what the codec is built with; `decoder_options` are the network's
    options that change the decoder only.
    """
    network = {key: value for key, value in build["network"].items() if key not in decoder_options}
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_DECODER)}
    return _hash(kept, _text({**build, "network": network}))


def weights_hash(tensors: Mapping[str, Tensor], build: Mapping[str, Any]) -> str:
    """The weights hash; `build` holds what the codec is built with."""
    return _hash(tensors, _text(build))


def earlier_codebooks_hash(tensors: Mapping[str, Tensor], quantizer: Mapping[str, Any]) -> str:
    """The codebooks hash of codec format 1."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_DECODER)}
    return _hash(kept, json.dumps(quantizer, sort_keys=True))


def earlier_weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """The weights hash of codec format 1."""
    return _hash(tensors, "")


def same_codebooks(codec: Codec, digest: str) -> bool:
    """Whether `digest`, a codebooks hash or the beginning of one, stands for codes that `codec` decodes."""
    return _begins(codec, "codebooks_sha256", digest)


def same_weights(codec: Codec, digest: str) -> bool:
    """Whether `digest`, a weights hash or the beginning of one, stands for the samples that `codec` gives."""
    return _begins(codec, "weights_sha256", digest)


def _begins(codec: Codec, name: str, digest: str) -> bool:
    if getattr(codec, name).startswith(digest):
        return True
    return getattr(codec, f"earlier_{name}", "").startswith(digest)  # a stranger's codec has no earlier one


def _text(build: Mapping[str, Any]) -> str:
    return f"{_DOMAIN}\n{json.dumps(build, sort_keys=True)}\n"


def _hash(tensors: Mapping[str, Tensor], text: str) -> str:
    import torch

    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
