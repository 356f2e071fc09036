"""The plugin registry: discovery, failures, duplicate names, hooks and plugin files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from third_party_plugins import METRIC_PLUGIN, codecvq_command, install_distribution

from codecvq import MetricSpec, QuantizerSpec, hookimpl
from codecvq.api.hookspecs import API_VERSION
from codecvq.errors import PluginError, UnknownName
from codecvq.plugins import Registry
from codecvq.plugins import registry as own_registry


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in this process's import path. Distributions in it are discovered."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def installed_registry() -> Registry:
    registry = Registry()
    registry.load_installed()
    return registry


# Installed plugins


def test_every_entry_point_of_the_distribution_is_loaded() -> None:
    registry = installed_registry()
    entries = importlib.metadata.entry_points(group="codecvq")
    assert {entry.name for entry in entries} >= {"vq", "fsq", "simvq", "lfq", "rotation_vq", "residual_fsq"}
    assert registry.failures == []
    origins = {(o.distribution, o.entry_point) for o in registry.origins.values()}
    own = {("codecvq", "library")}  # registered even if everything is disabled
    assert origins == {(entry.dist.name, entry.name) for entry in entries if entry.dist} | own
    assert {"vq", "fsq"} <= set(registry.all("quantizers"))


def test_a_broken_distribution_is_reported_and_others_load(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install_distribution(site, "broken-one", "import a_module_that_is_not_there")
    install_distribution(site, "broken-two", "raise SystemError('at import')")
    install_distribution(site, "whole-one", METRIC_PLUGIN.format(name="loudness"))
    with caplog.at_level(logging.WARNING, logger="codecvq"):
        own_registry()  # log its warnings before the count starts
        caplog.clear()
        registry = installed_registry()
    assert "loudness" in registry.all("metrics")
    assert "fsq" in registry.all("quantizers")
    assert {failure.origin.distribution for failure in registry.failures} == {"broken-one", "broken-two"}
    with pytest.raises(UnknownName) as error:
        registry.find("metrics", "loudnes")
    text = str(error.value)
    assert "Did you mean 'loudness'" in text
    assert "broken-one 1.0" in text
    assert "a_module_that_is_not_there" in text
    assert "SystemError: at import" in text
    assert "a_module_that_is_not_there" in registry.failures[0].details()


def test_an_exception_in_a_hook_is_a_failure_of_its_plugin(site: Path) -> None:
    source = "from codecvq import hookimpl\n@hookimpl\ndef codecvq_metrics():\n    raise KeyError('inside')\n"
    install_distribution(site, "broken-hook", source)
    registry = installed_registry()
    assert "mel_distance" in registry.all("metrics")
    assert [str(f.origin.distribution) for f in registry.failures] == ["broken-hook"]


def test_duplicate_names_need_the_distribution_as_prefix(site: Path) -> None:
    install_distribution(site, "first-loudness", METRIC_PLUGIN.format(name="loudness"))
    install_distribution(site, "second-loudness", METRIC_PLUGIN.format(name="loudness"), version="2.5")
    registry = installed_registry()
    with pytest.raises(PluginError) as error:
        registry.find("metrics", "loudness")
    for part in (
        "first-loudness 1.0",
        "second-loudness 2.5",
        "first-loudness/loudness",
        "second-loudness/loudness",
    ):
        assert part in str(error.value)
    assert registry.find("metrics", "second-loudness/loudness").origin.version == "2.5"
    assert {"first-loudness/loudness", "second-loudness/loudness"} <= set(registry.all("metrics"))
    assert "loudness" not in registry.all("metrics")


def test_two_distributions_with_one_entry_point_name_are_both_loaded(site: Path) -> None:
    install_distribution(site, "first-loudness", METRIC_PLUGIN.format(name="loudness"), entry="loudness")
    install_distribution(site, "second-level", METRIC_PLUGIN.format(name="level"), entry="loudness")
    assert {"loudness", "level"} <= set(installed_registry().all("metrics"))


def test_a_third_party_plugin_cannot_silently_replace_a_built_in_name(site: Path) -> None:
    install_distribution(site, "own-mel", METRIC_PLUGIN.format(name="mel_distance"))
    registry = installed_registry()
    with pytest.raises(PluginError, match=r"registered by codecvq .* and by own-mel"):
        registry.find("metrics", "mel_distance")
    assert registry.find("metrics", "codecvq/mel_distance").origin.distribution == "codecvq"


def test_plugins_can_be_disabled(site: Path) -> None:
    install_distribution(site, "whole-one", METRIC_PLUGIN.format(name="loudness"))
    registry = Registry()
    registry.load_installed(disabled=["whole-one", "fsq"])
    assert "loudness" not in registry.all("metrics")
    assert "fsq" not in registry.all("quantizers")
    assert "vq" in registry.all("quantizers")


# Plugin objects


def plugin_with(function: Callable[..., object], name: str, marked: bool = True) -> object:
    return type("Plugin", (), {name: staticmethod(hookimpl(function) if marked else function)})()


def test_a_misspelled_hook_raises_with_a_suggestion() -> None:
    with pytest.raises(PluginError, match=r"'codecvq_quantisers'.*Did you mean 'codecvq_quantizers'"):
        Registry().register(plugin_with(lambda: [], "codecvq_quantisers"), "misspelt")


def test_a_hook_without_hookimpl_raises() -> None:
    with pytest.raises(PluginError, match=r"'codecvq_metrics' is not marked.*@codecvq.hookimpl"):
        Registry().register(plugin_with(lambda: [], "codecvq_metrics", marked=False), "unmarked")


def test_a_hook_with_unknown_arguments_raises_and_registers_nothing() -> None:
    registry = Registry()
    with pytest.raises(Exception, match="surprise"):
        registry.register(plugin_with(lambda surprise: [], "codecvq_metrics"), "surprising")
    assert registry.all("metrics") == {}
    assert registry.origins == {}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            QuantizerSpec(name="new", factory="x:y", api=API_VERSION + 1),
            f"plugin API {API_VERSION + 1}, this codecvq has",
        ),
        (QuantizerSpec(name="My VQ", factory="x:y"), "'My VQ'"),
        (MetricSpec(name="metric", factory="x:y", columns=("a",)), "QuantizerSpec"),
        ("vq", "'vq'"),
    ],
    ids=["newer api", "name", "kind", "no spec"],
)
def test_an_unusable_spec_is_recorded_as_a_failure(spec: object, message: str) -> None:
    registry = Registry()
    registry.register(plugin_with(lambda: [spec], "codecvq_quantizers"), "odd")
    assert registry.all("quantizers") == {}
    assert message in str(registry.failures[0])
    assert "odd" in str(registry.failures[0])


def test_a_factory_that_does_not_import_raises_at_lookup() -> None:
    registry = Registry()
    spec = QuantizerSpec(name="far", factory="a_module_that_is_not_there:Far")
    registry.register(plugin_with(lambda: [spec], "codecvq_quantizers"), "far_away")
    with pytest.raises(PluginError, match=r"'far' of far_away did not load.*ModuleNotFoundError"):
        registry.find("quantizers", "far").load()


def test_one_plugin_that_fails_in_training_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    registry, seen = Registry(), []

    def fail(run: object, step: int, scalars: object) -> None:
        raise RuntimeError("disk is full")

    registry.register(plugin_with(fail, "codecvq_train_logged"), "failing")
    registry.register(
        plugin_with(lambda run, step, scalars: seen.append(step), "codecvq_train_logged"), "working"
    )
    with caplog.at_level(logging.WARNING, logger="codecvq"):
        logging.getLogger("codecvq").propagate = True
        registry.call("codecvq_train_logged", run=None, step=7, scalars={})
    assert seen == [7]
    assert "disk is full" in caplog.text
    assert "failing" in caplog.text


def test_plugins_can_be_unregistered() -> None:
    registry = Registry()
    origin = registry.register(
        plugin_with(lambda: [QuantizerSpec(name="far", factory="x:y")], "codecvq_quantizers"), "far"
    )
    assert "far" in registry.all("quantizers")
    registry.unregister(origin)
    assert registry.all("quantizers") == {}
    registry.register(plugin_with(lambda: [], "codecvq_quantizers"), "far")


# Files


def test_plugin_files_load_with_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "my_metric.py"
    path.write_text(METRIC_PLUGIN.format(name="loudness"))
    registry = Registry()
    registry.load(path)
    registry.load(str(path))  # loading twice has no effect
    registration = registry.find("metrics", "loudness")
    assert registration.identity == {
        "name": "loudness",
        "plugin": "my_metric",
        "version": "",
        "file": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert registry.find("metrics", "my_metric/loudness") is registration
    path.write_text(METRIC_PLUGIN.format(name="louder"))
    with pytest.raises(PluginError, match="changed after it was loaded"):
        registry.load(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [("syntax error here", "SyntaxError"), ("1 / 0", "ZeroDivisionError"), (None, "cannot be read")],
    ids=["syntax", "raises", "missing"],
)
def test_a_plugin_file_that_does_not_load_raises(tmp_path: Path, source: str | None, message: str) -> None:
    path = tmp_path / "broken.py"
    if source is not None:
        path.write_text(source)
    registry = Registry()
    with pytest.raises(PluginError, match=message) as error:
        registry.load(path)
    assert str(path) in str(error.value)
    assert registry.origins == {}


def test_a_missing_plugin_module_raises() -> None:
    with pytest.raises(PluginError, match=r"a_module_that_is_not_there.*my_plugin\.py"):
        Registry().load("a_module_that_is_not_there")


def test_plugins_are_not_loaded_from_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "my_metric.py").write_text(METRIC_PLUGIN.format(name="brightness"))
    assert "brightness" not in codecvq_command("plugins", "list", cwd=tmp_path)
    assert "brightness" in codecvq_command("plugins", "list", "--plugin", "./my_metric.py", cwd=tmp_path)
