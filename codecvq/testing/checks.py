"""Which checks a quantizer gets: one list for its plain form, its residual and its grouped one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from codecvq.errors import CodecvqError
from codecvq.plugins import registry
from codecvq.plugins.offer import Offer
from codecvq.quantizer import Quantizer, build_quantizer
from codecvq.quantizer.build import FORMS, plain_offer
from codecvq.testing import importing, invariance, learning, residual, values
from codecvq.testing.check import Check
from codecvq.testing.subject import Subject

DIM = 8  # D where the options do not say
STAGES, GROUPS = 3, 2  # of the residual and the grouped form

Test = Callable[[Subject], None]


def quantizer_checks(name: str, **options: Any) -> Iterator[Check]:
    """Every check of the quantizer registered under `name`, then of its residual and its grouped form.

    `options` are those of `build_quantizer`; `dim` may be left out. Each check takes well under a second on a
    CPU. Raises UnknownName for an unknown name and OptionError for options with which it cannot be made.
    """
    options = {"dim": DIM, **options}
    for subject in _forms(name, options):
        yield from _checks_of(subject, must_build=subject.name == name)
    offer = plain_offer(name)
    if offer.origin.entry_point:
        yield _import_check(name, offer)


def _checks_of(subject: Subject, must_build: bool) -> Iterator[Check]:
    """The checks of one form; where it cannot be made, the one check that says so."""
    tests: Sequence[Test] = (values.builds,)
    try:
        with torch.random.fork_rng(devices=[]):
            tests = (*tests, *_tests_for(build_quantizer(subject.name, **subject.options)))
    except CodecvqError as error:  # with a cause: what a stranger's constructor raised; `builds` reports it
        if must_build and isinstance(
            error.__cause__, (TypeError, type(None))
        ):  # the user's options are wrong
            raise
    for test in tests:
        yield Check(f"{subject.name}/{test.__name__}", _first_line(test), functools.partial(test, subject))


def _tests_for(quantizer: Quantizer) -> list[Test]:
    tests: list[Test] = [*values.TESTS, *invariance.TESTS, *learning.TESTS]
    if quantizer.estimator == "ste":
        tests.append(learning.gradient_gain)
    if quantizer.prefix_decodable:
        tests += residual.TESTS
    if residual.refining(quantizer):
        tests.append(residual.refinement)
    return tests


def _forms(name: str, options: dict[str, Any]) -> Iterator[Subject]:
    """`name` itself, and the forms derived from it that nobody registered as a quantizer of its own."""
    bare, registered = name.rpartition("/")[2], registry().offers("quantizers")
    if bare.startswith("grouped_") and bare not in registered:
        options = {"num_groups": GROUPS, **options}
    inner = bare.removeprefix("grouped_")
    if inner.startswith("residual_") and inner not in registered and "stages" not in options:
        options = {"num_codebooks": STAGES, **options}
    yield Subject(name, options)
    if not bare.startswith(FORMS) and f"residual_{bare}" not in registered:
        yield Subject(_prefixed("residual_", name), {**options, "num_codebooks": STAGES})
    if not bare.startswith("grouped_"):
        yield Subject(_prefixed("grouped_", name), {**options, "num_groups": GROUPS})


def _prefixed(form: str, name: str) -> str:
    distribution, slash, bare = name.rpartition("/")
    return f"{distribution}{slash}{form}{bare}"


def _import_check(name: str, offer: Offer) -> Check:
    module = getattr(offer.module, "__name__", "")
    test = importing.imports_no_torch
    return Check(f"{name}/{test.__name__}", _first_line(test), functools.partial(test, module))


def _first_line(test: Callable[..., None]) -> str:
    return (inspect.getdoc(test) or "").partition("\n")[0]
