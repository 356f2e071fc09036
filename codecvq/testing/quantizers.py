"""Selects the checks of a quantizer, for its plain form and for the forms derived from it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from codecvq.errors import CodecvqError, OptionError
from codecvq.plugins import registry
from codecvq.quantizer import Quantizer, build_quantizer
from codecvq.quantizer.build import COMPOSITIONS, plain_registration, quantizer_options
from codecvq.quantizer.build import FORMS as DERIVED
from codecvq.testing import (
    candidates,
    frames,
    gradients,
    imports,
    invariance,
    random_numbers,
    residual,
    state,
    training,
    values,
)
from codecvq.testing.case import QuantizerCase, is_composition
from codecvq.testing.check import DEFAULT_METHODS, Check, FormUnsupported, summary_of
from codecvq.testing.source import PluginSource

DIM = 8  # D if the options do not set it
STAGES, GROUPS = 3, 2  # of the residual and the grouped form
STRIDES = (4, 2, 1)  # of the multiscale form
FORMS = ("plain", "residual", "multiscale", "grouped")

Test = Callable[[QuantizerCase], str | None]


def quantizer_checks(name: str, *, forms: Collection[str] | None = None, **options: Any) -> Iterator[Check]:
    """Yield every check of the registered quantizer `name`, then of the forms derived from it.

    `forms` selects among "plain" (the quantizer itself), "residual", "multiscale" and "grouped"; the default
    is all. `options` are passed to `build_quantizer`; `dim` is optional. Each check takes well under a second
    on a CPU. An unsupported derived form has one check, which reports the reason. Raises
    UnknownName for an unknown name, and OptionError for options that the quantizer rejects.
    """
    wanted = FORMS if forms is None else validated_forms(forms)
    registration = plain_registration(name)
    first: tuple[Check, ...] = ()  # `builds` and `shapes` of the plain form
    for form, case in _forms(name, {"dim": DIM, **options}):
        if form not in wanted:
            continue
        checks = list(_Form(case, form, registration.load()).checks(first))
        if form == "plain":
            first = tuple(checks[:2])
        yield from checks
    if registration.origin.entry_point and "plain" in wanted:
        test = functools.partial(imports.imports_no_torch, getattr(registration.module, "__name__", ""))
        yield Check(f"{name}/imports_no_torch", summary_of(imports.imports_no_torch), test)


def validated_forms(forms: Collection[str]) -> Collection[str]:
    """Return the forms. Raises OptionError for an unknown one."""
    for form in forms:
        if form not in FORMS:
            raise OptionError(f"forms is {', '.join(forms)}; each must be one of {', '.join(FORMS)}.")
    return forms


@dataclass(frozen=True)
class _Form:
    """One form of a quantizer and the factory that builds it."""

    case: QuantizerCase
    form: str
    factory: Callable[..., Any]

    def checks(self, first: tuple[Check, ...]) -> Iterator[Check]:
        """The checks of the form; a form that cannot be built has one check, which reports the reason."""
        try:
            with torch.random.fork_rng(devices=[]):
                quantizer = build_quantizer(self.case.name, **self.case.options)
        except CodecvqError as error:  # with a cause: the plugin's constructor raised; `builds` shows it
            if self.form == "plain" and isinstance(error.__cause__, (TypeError, type(None))):
                raise  # the user's options are wrong
            why = (
                functools.partial(_raise_unsupported, str(error))
                if error.__cause__ is None
                else self._run_builds
            )
            yield self._check(values.builds, first, PluginSource(self.factory), why)
            return
        members = [type(each) for each in quantizer.modules() if isinstance(each, Quantizer)]
        source = PluginSource(*dict.fromkeys([*members[::-1], self.factory]))
        builds = self._check(values.builds, first, source)
        shapes = self._check(values.shapes, (*first, builds), source)
        yield builds
        yield shapes
        for test in _tests_for(self.case, quantizer):
            yield self._check(test, (*first, builds, shapes), source)

    def _check(
        self,
        test: Test,
        needs: tuple[Check, ...],
        source: PluginSource,
        run: Callable[[], str | None] | None = None,
    ) -> Check:
        return Check(
            f"{self.case.name}/{getattr(test, '__name__', '')}",
            summary_of(test),
            run or functools.partial(test, self.case),
            needs,
            source,
            getattr(test, "methods", DEFAULT_METHODS),
        )

    def _run_builds(self) -> None:
        values.builds(self.case)


def _raise_unsupported(reason: str) -> None:
    raise FormUnsupported(reason)


def _tests_for(case: QuantizerCase, quantizer: Quantizer) -> Sequence[Test]:
    # Gradients first: if none arrives, many other checks fail with less specific messages.
    tests: list[Test] = [] if is_composition(quantizer) else [gradients.own_gradient]
    tests += [gradients.task_gradient, *values.TESTS, *frames.tests_for(quantizer), *invariance.TESTS]
    tests += [*training.TESTS, *random_numbers.TESTS, state.progress]
    differ = quantizer.training_values_differ
    optional: dict[Test, bool] = {
        values.dequantize_matches_quantize: not is_composition(quantizer),
        values.training_values: not differ,
        values.training_values_differ: differ,
        training.gradient_gain: training.has_known_gain(quantizer),
        gradients.estimator_is_used: gradients.has_estimator(case.name, quantizer),
        state.update_without_vectors: state.has_update(quantizer),
        state.undeclared_progress: not any(each.uses_progress for each in quantizer.quantizers()),
        candidates.candidates: not is_composition(quantizer) and quantizer.lists_candidates,
        candidates.beam: "beam" in quantizer_options(case.name) and candidates.searches_beams(quantizer),
        residual.refinement: residual.is_refining(quantizer),
    }
    tests += [test for test, applies in optional.items() if applies]
    if not quantizer.prefix_decodable:
        return tests
    drops = "dropout" in quantizer_options(case.name)
    return [*tests, *residual.TESTS, *(residual.DROPOUT_TESTS if drops else ())]


def _forms(name: str, options: dict[str, Any]) -> Iterator[tuple[str, QuantizerCase]]:
    """The quantizer `name` and its derived forms, except forms that are registered quantizers themselves."""
    bare, registered = name.rpartition("/")[2], registry().registrations("quantizers")
    if bare.startswith("grouped_") and bare not in registered:
        options = {"num_groups": GROUPS, **options}
    inner = bare.removeprefix("grouped_")
    if inner.startswith("residual_") and inner not in registered and "stages" not in options:
        options = {"num_codebooks": STAGES, **options}
    if inner.startswith("multiscale_") and inner not in registered:
        options = {"strides": list(STRIDES), **options}
    plain = QuantizerCase(name, options)
    yield "plain", plain
    if bare in COMPOSITIONS:
        return
    if not bare.startswith(DERIVED) and f"residual_{bare}" not in registered:
        yield (
            "residual",
            QuantizerCase(_prefixed("residual_", name), {**options, "num_codebooks": STAGES}, plain),
        )
    if not bare.startswith(DERIVED):
        yield (
            "multiscale",
            QuantizerCase(_prefixed("multiscale_", name), {**options, "strides": [*STRIDES]}, plain),
        )
    if not bare.startswith("grouped_"):
        yield "grouped", QuantizerCase(_prefixed("grouped_", name), {**options, "num_groups": GROUPS}, plain)


def _prefixed(form: str, name: str) -> str:
    distribution, slash, bare = name.rpartition("/")
    return f"{distribution}{slash}{form}{bare}"
