"""Options of networks, quantizers and discriminators: invalid values raise one-line errors at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from codecvq.api.hookspecs import NetworkSpec
from codecvq.codec import Codec
from codecvq.construction import Limits, construction_limits
from codecvq.errors import CodecvqError, OptionError
from codecvq.networks.build import build_discriminator, build_network
from codecvq.plugins import registry
from codecvq.plugins.options import option_defaults
from codecvq.quantizer import build_quantizer
from codecvq.quantizer.build import quantizer_names, quantizer_options

INVALID: list[Any] = [
    None, True, "many", "5", -1, 0, 1.5, 10**12, 10**400, float("nan"), float("inf"), [], [None], ["a"],
    [[5]],
    [10**12], [-3, 0], {}, {"a": {"b": [1]}}, [float("nan")], "\x00",
]  # fmt: skip
SMALL = Limits(weights_bytes=2**24, tensors=500, modules=500, tensor_bytes=2**24)
MINIMAL = {
    "levels": [4, 4], "bits": 4, "num_codebooks": 2, "dim": 8, "num_groups": 2, "strides": [2, 1],
    "of": {"name": "lfq", "bits": 4}, "semantic": "simvq", "acoustic": "vq",
}  # fmt: skip


def assert_builds_or_raises_documented_error(build: Callable[[], object]) -> None:
    """A `CodecvqError` must have one line of at most 600 characters. Other exceptions propagate."""
    text = ""
    try:
        build()
    except CodecvqError as error:
        text = str(error)
    assert "\n" not in text
    assert len(text) < 600


@pytest.mark.parametrize("name", quantizer_names())
def test_invalid_quantizer_option_values_raise_documented_errors(name: str) -> None:
    known = {"dim": None, **quantizer_options(name)}
    least = {key: value for key, value in MINIMAL.items() if key in known}
    if name.startswith("grouped_") and not name.startswith("grouped_residual_"):
        least.pop("num_groups")
    if name.startswith("multiscale_"):  # one codebook for each stride
        least.pop("num_codebooks", None)
    with construction_limits(SMALL, "it"):
        assert build_quantizer(name, **least)
        for key in known:
            for value in INVALID:
                assert_builds_or_raises_documented_error(
                    lambda options=least | {key: value}: build_quantizer(name, **options)
                )


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", list(registry().all("networks")))
def test_invalid_network_option_values_raise_documented_errors(name: str) -> None:
    known = option_defaults(registry().find(NetworkSpec, name))
    small = {"preset": "tiny", "filters": 2, "sample_rate": 16000}
    small = {key: value for key, value in small.items() if key in known}
    build = build_network if "preset" in known else build_discriminator
    with construction_limits(SMALL, "it"):
        for key in known:
            for value in INVALID:
                assert_builds_or_raises_documented_error(
                    lambda options=small | {key: value}: build(name, **options)
                )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vq", {"estimator": None}, "quantizer 'vq': estimator is None; needed is a valid string"),
        ("fsq", {"levels": 5}, "quantizer 'fsq': levels is 5; needed is a valid list"),
        ("fsq", {"levels": [8, 2.5]}, r"levels\[1\] is 2.5; needed is a valid integer"),
        ("vq", {"codebook_size": True}, "codebook_size is True; needed is a valid integer"),
        ("vq", {"decay": float("nan")}, "decay is nan; needed are finite numbers"),
        ("vq", {"distance": "far"}, "distance is 'far'; needed is 'euclidean' or 'cosine'"),
        ("residual_vq", {"num_codebooks": 10**9}, "a whole number from 1 to 1024; given is 1000000000"),
    ],
)
def test_option_errors_state_the_allowed_values(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build_quantizer(name, dim=8, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"encoder_blocks": 10**9},
        {"encoder_width": 10**9},
        {"num_mels": 10**9},
        {"dim": 10**12},
    ],
    ids=str,
)
def test_too_large_networks_raise_quickly(options: dict[str, int]) -> None:
    began = time.process_time()
    message = r"too large to be built|needed (is a whole number from 1 to \d+|are 1 to 641 bands)"
    with pytest.raises(OptionError, match=message), construction_limits(Limits(), "recipe x"):
        build_network("spectral", sample_rate=16000, **options)
    assert time.process_time() - began < 8


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        (
            "quantizer",
            {"name": "vq", "dim": 8},
            "quantizer.dim cannot be set, since it is the dim of the net",
        ),
        ("network", {"name": "seanet", "sample_rate": 8}, "network.sample_rate cannot be set"),
        ("quantizer", {"name": "vq", 5: 8}, "quantizer has the key 5; needed is a string"),
    ],
)
def test_options_set_by_the_codec_raise(part: str, options: dict[Any, Any], message: str) -> None:
    parts = {"network": {"name": "seanet"}, "quantizer": {"name": "vq"}, part: options}
    with pytest.raises(OptionError, match=message):
        Codec(sample_rate=16000, **parts)  # type: ignore[arg-type]  # invalid on purpose
