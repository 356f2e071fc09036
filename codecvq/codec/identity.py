"""The identity of a codec: hashes of everything that affects its codes or samples.

Files and datasets record them. `codebooks_sha256` decides whether codes can be decoded. It covers the
encoder, the quantizer, their options, sample rate and channels. It excludes the decoder, because another
decoder can be trained for the same codes. `weights_sha256` also covers the decoder: equal hashes mean equal
codes and samples.

Before codec format 2 the hashes covered only the tensors and the quantizer's options. Files of that time
still decode: `Codec.matches_codebooks` and `Codec.matches_weights` also accept these earlier hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_DECODER = "decoder."
_DOMAIN = "codecvq.codec/2"
_WRAPPED = "codecvq.wrapped/1"


class HashCache:
    """Cache of hashes of tensors. A hash is recomputed when a tensor changes.

    Every written file needs the hashes, and computing them takes seconds.
    """

    def __init__(self) -> None:
        self._cache: dict[str, tuple[object, str]] = {}  # name -> versions of the tensors, hash

    def get(self, what: str, tensors: Mapping[str, Tensor], compute: Callable[[], str]) -> str:
        """Return the hash named `what` of the tensors; calls `compute` if it is not cached."""
        version = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors.values())
        if self._cache.get(what, (None, ""))[0] != version:
            self._cache[what] = (version, compute())
        return self._cache[what][1]

    def clear(self) -> None:
        """Remove all cached hashes."""
        self._cache.clear()


def codebooks_hash(
    tensors: Mapping[str, Tensor], build: Mapping[str, Any], decoder_options: Collection[str]
) -> str:
    """Return the codebooks hash.

    `build` contains the constructor arguments of the codec. `decoder_options` are the network options that
    affect only the decoder.
    """
    network = {key: value for key, value in build["network"].items() if key not in decoder_options}
    hashed = {name: tensor for name, tensor in tensors.items() if not name.startswith(_DECODER)}
    return _hash(hashed, _text({**build, "network": network}))


def weights_hash(tensors: Mapping[str, Tensor], build: Mapping[str, Any]) -> str:
    """Return the weights hash. `build` contains the constructor arguments of the codec."""
    return _hash(tensors, _text(build))


def earlier_codebooks_hash(tensors: Mapping[str, Tensor], quantizer: Mapping[str, Any]) -> str:
    """Return the codebooks hash of codec format 1."""
    hashed = {name: tensor for name, tensor in tensors.items() if not name.startswith(_DECODER)}
    return _hash(hashed, json.dumps(quantizer, sort_keys=True))


def earlier_weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the weights hash of codec format 1."""
    return _hash(tensors, "")


def wrapped_hash(source: Mapping[str, Tensor] | str, facts: Mapping[str, Any]) -> str:
    """Return the hash of a wrapped codec: of its tensors or a version text, and of other `facts`."""
    text = f"{_WRAPPED}\n{json.dumps(facts, sort_keys=True)}\n"
    return _hash({}, text + source) if isinstance(source, str) else _hash(source, text)


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
