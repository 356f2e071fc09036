"""The conformance checks of quantizers find every fault of the faulty quantizers."""

from __future__ import annotations

import unittest
from collections.abc import Collection

import pytest
import torch
from faulty_declarations import CORRECT, EVERY_FORM, FAULTY, EmaWithoutVectors, SumsOverVectors
from faulty_quantizers import (
    BROKEN,
    CannotBeBuilt,
    CorrectQuantizer,
    CountsCalls,
    DecodesSomethingElse,
    GradientTwice,
    LearnsInEval,
    NormalizesOverTheBatch,
    OneTooHigh,
    RefinesWithoutScale,
    registered,
)

from codecvq import Quantizer
from codecvq.errors import OptionError, UnknownName
from codecvq.testing import CheckFailed, CheckSkipped, parametrize_quantizer, quantizer_checks, run_checks
from codecvq.testing.check import expect_close, expect_equal


def failures_of(broken: type[Quantizer], form: str = "", only: Collection[str] = ()) -> dict[str, str]:
    """Failures of the checks of one form: check -> message. `only` selects checks by name."""
    with registered(broken):
        name = broken.__name__.lower()
        checks = list(quantizer_checks(name, forms=[form.rstrip("_") or "plain"]))
        outcomes = list(run_checks(c for c in checks if not only or c.name.rpartition("/")[2] in only))
    return {outcome.check.name.rpartition("/")[2]: outcome.found for outcome in outcomes if outcome.found}


@pytest.mark.parametrize("form", EVERY_FORM)
def test_a_correct_implementation_passes_every_check(form: str) -> None:
    assert failures_of(CorrectQuantizer, form) == {}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_each_fault_is_found(broken: type[Quantizer]) -> None:
    assert set(failures_of(broken, only=BROKEN[broken])) == BROKEN[broken]


@pytest.mark.parametrize(
    ("correct", "form"),
    [
        pytest.param(correct, form, id=f"{form}{correct.__name__}")
        for correct, forms in CORRECT.items()
        for form in forms
    ],
)
def test_correct_quantizers_with_declarations_pass_every_check(correct: type[Quantizer], form: str) -> None:
    assert failures_of(correct, form) == {}


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_each_false_declaration_is_found_by_its_check(faulty: type[Quantizer]) -> None:
    for each in FAULTY[faulty]:
        form, _, check = each.partition("/")
        assert set(failures_of(faulty, form, [check])) == {check}, each


def test_residual_stages_that_repeat_the_same_grid_are_found() -> None:
    assert "refinement" in failures_of(RefinesWithoutScale, "residual_", ["refinement"])


def test_a_dropped_stage_that_learns_is_found() -> None:
    only = ["dropped_stages_untouched"]
    assert "stage " in failures_of(CountsCalls, "residual_", only)["dropped_stages_untouched"]
    assert failures_of(CorrectQuantizer, "residual_", only) == {}


def test_failures_describe_the_fault() -> None:
    assert "K is 16" in failures_of(OneTooHigh, only=["shapes"])["shapes"]
    assert (
        "steps by up to" in failures_of(LearnsInEval, only=["eval_changes_nothing"])["eval_changes_nothing"]
    )
    assert "RuntimeError: no codebook today" in failures_of(CannotBeBuilt)["builds"]
    assert "gain of 2" in failures_of(GradientTwice, only=["gradient_gain"])["gradient_gain"]


def test_wrong_options_and_names_raise_user_errors() -> None:
    with pytest.raises(OptionError, match="levels"):
        list(quantizer_checks("fsq"))
    with pytest.raises(UnknownName, match="Did you mean 'simvq'"):
        list(quantizer_checks("simvk"))


def test_checks_do_not_change_the_global_random_state() -> None:
    before = torch.get_rng_state()
    for check in quantizer_checks("vq", codebook_size=4):
        if check.name in ("vq/same_seed", "residual_vq/dropout_per_item"):
            check.run()
    assert torch.equal(torch.get_rng_state(), before)


def test_expected_failures_become_strict_xfails() -> None:
    with registered(NormalizesOverTheBatch):
        name = "normalizesoverthebatch"
        mark = parametrize_quantizer(
            name, expected_failures={"frames_are_independent": "the whole batch"}
        ).mark
        marked = {p.id: p.marks[0] for p in mark.args[1] if p.marks}
        assert set(marked) == {
            f"{form}{name}/frames_are_independent" for form in ("", "residual_", "grouped_")
        }
        assert all(
            m.name == "xfail" and m.kwargs == {"reason": "the whole batch", "strict": True}
            for m in marked.values()
        )
        with pytest.raises(OptionError, match="frames_are_independend"):
            parametrize_quantizer(name, expected_failures={"frames_are_independend": "misspelt"})


def test_checks_that_depend_on_a_failed_shape_check_are_skipped() -> None:
    with registered(OneTooHigh):
        name = OneTooHigh.__name__.lower()
        outcomes = list(run_checks(quantizer_checks(name)))
        states = {outcome.check.name: outcome.state for outcome in outcomes}
        assert states.pop(f"{name}/builds") == "ok"
        assert states.pop(f"{name}/shapes") == "broken"
        assert set(states.values()) == {"skipped"}
        check = next(each for each in quantizer_checks(name) if each.short_name == "round_trip")
        with pytest.raises(CheckSkipped, match=f"because {name}/shapes failed"):
            check.run()
    assert issubclass(CheckSkipped, unittest.SkipTest)  # pytest skips the test


def test_the_first_failure_stops_the_checks_if_requested() -> None:
    with registered(DecodesSomethingElse):
        checks = quantizer_checks("decodessomethingelse", forms=["plain"])
        *before, last = run_checks(checks, stop_at_first=True)
        assert last.is_broken
        assert not any(outcome.is_broken for outcome in before)


def test_every_failure_shows_a_line_of_the_plugin() -> None:
    for faulty, name in (
        (SumsOverVectors, "losses_are_means"),
        (EmaWithoutVectors, "update_without_vectors"),
    ):
        with registered(faulty):
            checks = quantizer_checks(faulty.__name__.lower(), forms=["plain"])
            (check,) = (check for check in checks if check.short_name == name)
            (outcome,) = run_checks([check])
            with pytest.raises(CheckFailed) as failed:
                check.run()
            notes = getattr(failed.value, "__notes__", [f"at {outcome.place}"])  # Python 3.10 has none
            assert notes == [f"at {outcome.place}"]
            assert "faulty_declarations.py:" in outcome.place
            assert "\n    def terms" in outcome.place or "\n    def update" in outcome.place


def test_differences_are_located() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(2, 3)
    b[1, 2] = 0.5
    with pytest.raises(CheckFailed, match=r"1 of 6 differ, most at \[1, 2\]: 0, not 0.5"):
        expect_equal(a, b, "values")
    expect_close(a, b, "values", tolerance=0.5)
    with pytest.raises(CheckFailed, match="int64"):
        expect_equal(a, b.long(), "values")
    with pytest.raises(CheckFailed, match=r"NaN|nan"):
        expect_close(torch.tensor([float("nan")]), torch.tensor([0.0]), "values")
    expect_equal(torch.tensor([float("nan"), torch.inf]), torch.tensor([float("nan"), torch.inf]), "values")
