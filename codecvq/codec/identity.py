"""The identity of a codec: hashes of everything that changes its codes or its samples.

Files and datasets record them. `codebooks_sha256` decides whether codes can be decoded: it covers the
encoder, the quantizer, their options, sample rate and channels, and leaves the decoder out, since another
decoder may be trained for the same codes. `weights_sha256` covers the decoder too: with equal ones, codes and
samples are equal.

Before codec format 2 the hashes covered the tensors and the quantizer's options only. What was written then
still decodes: `Codec.matches_codebooks` and `Codec.matches_weights` accept these earlier hashes too.
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
    """Hashes of tensors, each computed again only when a tensor has changed: every file that is written
    needs them.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[object, str]] = {}  # what -> versions of the tensors, hash

    def get(self, what: str, tensors: Mapping[str, Tensor], compute: Callable[[], str]) -> str:
        """The hash `what` of the tensors."""
        version = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors.values())
        if self._kept.get(what, (None, ""))[0] != version:
            self._kept[what] = (version, compute())
        return self._kept[what][1]

    def clear(self) -> None:
        """Compute all of them again when they are needed."""
        self._kept.clear()


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


def wrapped_hash(source: Mapping[str, Tensor] | str, facts: Mapping[str, Any]) -> str:
    """The hash of a wrapped codec: of tensors or of a version in words, and of the facts beside them."""
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
