"""The checks as parameters of a pytest test."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codecvq.testing.check import Check
from codecvq.testing.codecs import codec_checks
from codecvq.testing.networks import SAMPLE_RATE, network_checks
from codecvq.testing.quantizers import quantizer_checks
from codecvq.testing.runner import check_expected, reason_for

if TYPE_CHECKING:
    import pytest

    from codecvq.api.codec import AudioCodec


def parametrize_quantizer(
    names: str | Iterable[str],
    *,
    forms: Collection[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    **options: Any,  # Any: the plugin defines the types of its options
) -> pytest.MarkDecorator:
    """Parametrize a test with every check of one or more quantizers, as the argument `check`.

    `forms` and `options` are passed to `quantizer_checks`. `expected_failures` maps checks to the reason why
    they fail: "prefix" applies to all forms, "residual_my_vq/prefix" to one. Such a check still runs, and the
    test fails once the check passes, so that the list stays current. Unsupported forms are skipped, and so
    are checks that depend on a failed one.
    """
    each = [names] if isinstance(names, str) else names
    return _parametrize(
        [check for name in each for check in quantizer_checks(name, forms=forms, **options)],
        expected_failures,
    )


def parametrize_network(
    names: str | Iterable[str],
    *,
    sample_rate: int = SAMPLE_RATE,
    expected_failures: Mapping[str, str] | None = None,
    **options: Any,  # Any: as above
) -> pytest.MarkDecorator:
    """Parametrize a test with every check of one or more networks; see `parametrize_quantizer`.

    `sample_rate` and `options` are passed to `network_checks`.
    """
    each = [names] if isinstance(names, str) else names
    checks = [check for name in each for check in network_checks(name, sample_rate=sample_rate, **options)]
    return _parametrize(checks, expected_failures)


def parametrize_codec(
    codecs: AudioCodec | str | Path | Iterable[AudioCodec | str | Path],
    *,
    expected_failures: Mapping[str, str] | None = None,
) -> pytest.MarkDecorator:
    """Parametrize a test with every check of one or more codecs (objects, names or folders).

    See `parametrize_quantizer`.
    """
    one = isinstance(codecs, (str, Path)) or not isinstance(codecs, Iterable)
    each: Iterable[Any] = [codecs] if one else codecs  # type: ignore[assignment]
    return _parametrize([check for codec in each for check in codec_checks(codec)], expected_failures)


def _parametrize(checks: list[Check], expected: Mapping[str, str] | None) -> pytest.MarkDecorator:
    import pytest

    check_expected(expected or {}, checks)
    parameters = []
    for check in checks:
        reason = reason_for(check, expected or {})
        marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
        parameters.append(pytest.param(check, id=check.name, marks=marks))
    return pytest.mark.parametrize("check", parameters)
