"""The checks as parameters of a pytest test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from codecvq.errors import OptionError, nearest
from codecvq.testing.checks import quantizer_checks

if TYPE_CHECKING:
    import pytest


def parametrize_quantizer(
    names: str | Iterable[str],
    *,
    expected_failures: Mapping[str, str] | None = None,
    **options: Any,  # Any: an option is whatever its plugin takes
) -> pytest.MarkDecorator:
    """A decorator that gives a test every check of one or more quantizers, one by one, as argument `check`.

    `expected_failures` maps checks to the reason why they fail: "prefix" in all forms, or
    "residual_my_vq/prefix" in one. Such a check is run all the same, and the test fails once it passes, so
    that the reason does not outlive its fault.
    """
    import pytest

    reasons = dict(expected_failures or {})
    checks = [
        check
        for name in ([names] if isinstance(names, str) else names)
        for check in quantizer_checks(name, **options)
    ]
    known = {check.name for check in checks} | {check.name.rpartition("/")[2] for check in checks}
    for name in reasons:
        if name not in known:
            raise OptionError(
                f"expected_failures names {name!r}, which is no check.{nearest(name, known)} "
                f"Known: {', '.join(sorted(known))}."
            )
    parameters = []
    for check in checks:
        reason = reasons.get(check.name) or reasons.get(check.name.rpartition("/")[2])
        marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
        parameters.append(pytest.param(check, id=check.name, marks=marks))
    return pytest.mark.parametrize("check", parameters)
