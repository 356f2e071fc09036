"""The registry: order of hooks, wrappers, declared options, and built-in registrations."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pydantic
import pytest

from codecvq import MetricSpec, NetworkSpec, QuantizerSpec, hookimpl
from codecvq.errors import OptionError, PluginError
from codecvq.networks.build import build_network
from codecvq.networks.spectral import build_spectral
from codecvq.plugins import Registry, registry
from codecvq.plugins.options import check_options, option_defaults


def plugin(**hooks: Callable[..., Any]) -> object:
    return type("Plugin", (), {name: staticmethod(hook) for name, hook in hooks.items()})()


def metric(name: str) -> MetricSpec:
    return MetricSpec(name=name, columns=(name,), factory=lambda: None)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    monkeypatch.setattr(logging.getLogger("codecvq"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records]


# Order and wrappers


def test_training_hooks_are_called_in_pluggy_order() -> None:
    registry_under_test, seen = Registry(), []
    options = {"plain": {}, "later": {}, "last": {"trylast": True}, "first": {"tryfirst": True}, "latest": {}}
    for name, marks in options.items():

        def hook(step: int, name: str = name) -> None:
            seen.append(name)

        registry_under_test.register(plugin(codecvq_train_logged=hookimpl(**marks)(hook)), name)
    registry_under_test.call("codecvq_train_logged", run=None, step=1, scalars={})
    assert seen == ["first", "latest", "later", "plain", "last"]


@pytest.mark.parametrize("broken", ["no", "before", "after", "never yields", "twice"])
@pytest.mark.parametrize("mark", ["wrapper", "hookwrapper"])
def test_a_failing_hook_wrapper_does_not_stop_other_hooks(
    mark: str, broken: str, warnings: Callable[[], list[str]]
) -> None:
    registry_under_test, seen = Registry(), []

    def around(step: int) -> Iterator[None]:
        seen.append("before")
        if broken == "before":
            raise RuntimeError("it broke")
        if broken == "never yields":
            return None
        result = yield
        if broken == "twice":
            yield
        if broken == "after":
            raise SystemExit("it broke")
        seen.append("after")
        return result if mark == "wrapper" else None

    registry_under_test.register(
        plugin(codecvq_train_logged=hookimpl(lambda step: seen.append("one"))), "one"
    )
    registry_under_test.register(plugin(codecvq_train_logged=hookimpl(**{mark: True})(around)), "around")
    registry_under_test.register(
        plugin(codecvq_train_logged=hookimpl(lambda step: seen.append("two"))), "two"
    )
    registry_under_test.call("codecvq_train_logged", run=None, step=1, scalars={})
    assert seen == ["before", "two", "one", *(["after"] if broken == "no" else [])]
    assert len(warnings()) == (broken != "no")
    assert all("codecvq_train_logged of plugin around failed" in text for text in warnings())


@pytest.mark.parametrize("mark", ["wrapper", "hookwrapper"])
def test_a_wrapper_can_change_specs_and_origins_are_correct(mark: str) -> None:
    registry_under_test = Registry()

    def change(results: list[list[MetricSpec]]) -> list[list[MetricSpec]]:
        unchanged = [[spec for spec in specs if spec.name != "second"] for specs in results]
        return [*unchanged, [replace(unchanged[0][0], name="changed")]]

    def around() -> Iterator[None]:
        if mark == "wrapper":
            return change((yield))
        outcome = yield
        outcome.force_result(change(outcome.get_result()))

    registry_under_test.register(
        plugin(codecvq_metrics=hookimpl(lambda: [metric("first"), metric("second")])), "one"
    )
    registry_under_test.register(plugin(codecvq_metrics=hookimpl(**{mark: True})(around)), "around")
    origins = {
        name: str(registration.origin) for name, registration in registry_under_test.all(MetricSpec).items()
    }
    assert origins == {"first": "one", "changed": "around"}
    assert registry_under_test.failures == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda results: None, "its wrapper returned None"),
        (lambda results: [["first"]], "it yields 'first'"),
        (lambda results: 1 / 0, "ZeroDivisionError"),
    ],
    ids=["nothing", "no specs", "raises"],
)
def test_a_failing_wrapper_of_registrations_is_a_failure_of_its_plugin(
    change: Callable[[Any], Any], message: str
) -> None:
    registry_under_test = Registry()

    def around() -> Iterator[None]:
        return change((yield))

    registry_under_test.register(plugin(codecvq_metrics=hookimpl(wrapper=True)(around)), "around")
    registry_under_test.register(plugin(codecvq_metrics=hookimpl(lambda: [metric("first")])), "one")
    assert set(registry_under_test.all(MetricSpec)) <= {"first"}
    assert [str(failure.origin) for failure in registry_under_test.failures] == ["around"]
    assert message in str(registry_under_test.failures[0])
    assert set(registry_under_test.all(MetricSpec)) == ({"first"} if "yields" not in message else set())


def test_a_wrapper_without_yield_raises() -> None:
    with pytest.raises(PluginError, match="marked as a wrapper and has no yield"):
        Registry().register(plugin(codecvq_metrics=hookimpl(wrapper=True)(lambda: None)), "none")


def test_specname_selects_the_hook() -> None:
    registry_under_test = Registry()
    registry_under_test.register(
        plugin(mine=hookimpl(specname="codecvq_metrics")(lambda: [metric("first")])), "one"
    )
    assert list(registry_under_test.all(MetricSpec)) == ["first"]
    with pytest.raises(PluginError, match=r"'codecvq_metric'.*Did you mean 'codecvq_metrics'"):
        registry_under_test.register(plugin(mine=hookimpl(specname="codecvq_metric")(lambda: [])), "misspelt")
    registry_under_test.register(
        plugin(codecvq_later=hookimpl(optionalhook=True)(lambda: [])), "of a later codecvq"
    )


def test_a_hook_can_list_registrations_of_another_kind() -> None:
    registry_under_test = Registry()

    def metrics_of_quantizers() -> Iterator[MetricSpec]:
        for name in registry_under_test.all(QuantizerSpec):
            yield metric(f"of_{name}")

    registry_under_test.register(plugin(codecvq_metrics=hookimpl(metrics_of_quantizers)), "metrics")
    registry_under_test.register(
        plugin(codecvq_quantizers=hookimpl(lambda: [QuantizerSpec(name="far", factory="x:y")])), "far"
    )
    assert list(registry_under_test.all(MetricSpec)) == ["of_far"]


# Options


def wide_spectral(*, sample_rate: int, channels: int = 1, gain: float = 1.0, **options: Any) -> Any:
    """A network that wraps `spectral`. It has the options of `spectral` and `gain`."""
    network = build_spectral(sample_rate=sample_rate, channels=channels, **options)
    network.encoder.gain = gain
    return network


@pytest.fixture
def wide() -> Iterator[None]:
    spec = NetworkSpec(name="wide_spectral", factory=wide_spectral, options="spectral")
    origin = registry().register(plugin(codecvq_networks=hookimpl(lambda: [spec])), "wide")
    yield
    registry().unregister(origin)


@pytest.mark.usefixtures("wide")
def test_a_plugin_can_extend_the_options_of_another() -> None:
    wide = option_defaults(registry().find(NetworkSpec, "wide_spectral"))
    spectral = option_defaults(registry().find(NetworkSpec, "spectral"))
    assert wide == {**spectral, "gain": 1.0}
    network = build_network(
        "wide_spectral", sample_rate=16000, preset="tiny", hop_length=160, window_length=640, gain=0.5
    )
    assert (network.hop_length, network.encoder.gain) == (160, 0.5)
    with pytest.raises(OptionError, match=r"has no option 'hop_lenght'.*Did you mean 'hop_length'"):
        build_network("wide_spectral", sample_rate=16000, hop_lenght=160)
    with pytest.raises(OptionError, match="gain is 'loud'; needed is a valid number"):
        build_network("wide_spectral", sample_rate=16000, gain="loud")
    with pytest.raises(OptionError, match=r"hop_length is 1.5; needed is a valid integer"):
        build_network("wide_spectral", sample_rate=16000, hop_length=1.5)


@dataclass
class Declared:
    """Options as a dataclass."""

    size: int
    name: str = "x"


class Model(pydantic.BaseModel):
    """Options as a pydantic model."""

    size: int
    name: str = "x"


def declared(size: int, name: str = "x") -> None:
    """Options as a function."""


@pytest.mark.parametrize("options", [Declared, Model, declared, f"{__name__}:Declared", ":Declared"])
def test_options_can_be_declared_by_a_class_or_a_function(options: Any) -> None:
    registry_under_test = Registry()
    spec = QuantizerSpec(name="far", factory=lambda dim, **options: None, options=options)
    module = plugin(codecvq_quantizers=hookimpl(lambda: [spec]))
    type(module).Declared = Declared
    registry_under_test.register(module, "far")
    registration = registry_under_test.find(QuantizerSpec, "far")
    assert set(option_defaults(registration)) == {"dim", "size", "name"}
    check_options("far", registration, {"size": 1, "dim": 2})
    for supplied, message in (
        ({"dim": 1, "size": "x"}, "size is 'x'"),
        ({"dim": 1}, "needs size"),
        ({"dim": 1, "size": 1, "nam": ""}, "Did you mean 'name'"),
    ):
        with pytest.raises(OptionError, match=message):
            check_options("far", registration, supplied)


def test_undeclared_options_reach_the_factory() -> None:
    registry_under_test = Registry()
    spec = QuantizerSpec(name="far", factory=lambda dim, **options: None)
    registry_under_test.register(plugin(codecvq_quantizers=hookimpl(lambda: [spec])), "far")
    check_options("far", registry_under_test.find(QuantizerSpec, "far"), {"dim": 1, "anything": [1]})
    with pytest.raises(OptionError, match="finite numbers"):
        check_options(
            "far", registry_under_test.find(QuantizerSpec, "far"), {"dim": 1, "anything": [float("nan")]}
        )


def test_cyclic_and_missing_option_declarations_raise() -> None:
    def specs() -> Iterator[QuantizerSpec]:
        for name, options in (("one_way", "other_way"), ("other_way", "one_way"), ("lost", "no_module:x")):
            yield QuantizerSpec(name=name, factory=lambda **options: None, options=options)

    origin = registry().register(plugin(codecvq_quantizers=hookimpl(specs)), "circle")
    try:
        with pytest.raises(PluginError, match="which is a cycle"):
            option_defaults(registry().find(QuantizerSpec, "one_way"))
        with pytest.raises(PluginError, match=r"its options 'no_module:x' raised ModuleNotFoundError"):
            option_defaults(registry().find(QuantizerSpec, "lost"))
    finally:
        registry().unregister(origin)


# Built-in registrations


@pytest.mark.parametrize("disabled", ["vq", "codecvq"])
def test_the_default_estimator_does_not_depend_on_plugins(disabled: str) -> None:
    registry_under_test = Registry()
    registry_under_test.load_installed(disabled=[disabled])
    assert "vq" not in registry_under_test.all(QuantizerSpec)
    assert registry_under_test.find("estimators", "ste").identity["plugin"] == "codecvq"


def test_other_quantizers_work_if_the_plugin_vq_is_disabled() -> None:
    program = (
        "import torch, codecvq\n"
        "quantizer = codecvq.build_quantizer('residual_fsq', dim=4, levels=[3, 3], num_codebooks=2)\n"
        "print(tuple(quantizer(torch.randn(1, 4, 5)).codes.shape))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "CODECVQ_DISABLE_PLUGINS": "vq"},
    )
    assert done.stdout == "(1, 2, 5)\n"


def test_listing_plugins_does_not_import_torch() -> None:
    program = (
        "import sys\nfrom codecvq.plugins import KINDS, registry\n"
        "for kind in KINDS: registry().all(kind)\nprint('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
