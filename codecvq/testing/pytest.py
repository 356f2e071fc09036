"""The checks as parameters of a pytest test."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from codecvq.testing.check import Check
from codecvq.testing.quantizers import quantizer_checks
from codecvq.testing.running import check_expected, reason_for

if TYPE_CHECKING:
    import pytest


def parametrize_quantizer(
    names: str | Iterable[str],
    *,
    forms: Collection[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    **options: Any,  # Any: an option is whatever its plugin takes
) -> pytest.MarkDecorator:
    """A decorator that gives a test every check of one or more quantizers, one by one, as argument `check`.

    `forms` and `options` are those of `quantizer_checks`. `expected_failures` maps checks to the reason why
    they fail: "prefix" in all forms, or "residual_my_vq/prefix" in one. Such a check is run all the same, and
    the test fails once it passes, so that the reason does not outlive its fault. A form that is refused, and
    checks that a failed one leaves without meaning, are skipped.
    """
    each = [names] if isinstance(names, str) else names
    return _parametrize(
        [check for name in each for check in quantizer_checks(name, forms=forms, **options)],
        expected_failures,
    )


def _parametrize(checks: list[Check], expected: Mapping[str, str] | None) -> pytest.MarkDecorator:
    import pytest

    check_expected(expected or {}, checks)
    parameters = []
    for check in checks:
        reason = reason_for(check, expected or {})
        marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
        parameters.append(pytest.param(check, id=check.name, marks=marks))
    return pytest.mark.parametrize("check", parameters)
