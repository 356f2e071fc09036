"""Misbehaving plugins give one warning on stderr. Results on stdout and other plugins are not affected."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from third_party_plugins import METRIC_PLUGIN, codecvq_command, install_distribution, run

from codecvq import MetricSpec, hookimpl
from codecvq.errors import PluginError
from codecvq.plugins import MAX_SPECS_PER_HOOK, Registry
from codecvq.signals import Terminated

GOOD = METRIC_PLUGIN.format(name="brightness")
SPEC = "MetricSpec(name='m{0}', columns=('m',), factory=lambda: None)"
HOOK = "from codecvq import MetricSpec, hookimpl\n@hookimpl\ndef codecvq_metrics():\n"

#: source of a misbehaving module -> text of the warning
MODULES = {
    "import sys; sys.exit()": "tried to end the process (SystemExit: None)",
    "raise SystemExit(0)": "tried to end the process (SystemExit: 0)",
    "import argparse; argparse.ArgumentParser().parse_args(['--no-such'])": "SystemExit: 2",
    "class Own(BaseException): pass\nraise Own('mine')": "it raised Own: mine",
    "class Odd(Exception):\n    def __str__(self): return 1/0\nraise Odd()": "an error without a text",
    "raise ValueError('x' * 100000)": "xxx…",
    "raise ValueError('two\\nlines')": "ValueError: two lines",
    "import a_module_that_is_not_there": "a_module_that_is_not_there",
    "x = 1": "registers nothing: none of its functions is marked with @codecvq.hookimpl",
    HOOK + "    return": "its hook codecvq_metrics returned None; it must yield specs",
    HOOK + f"    return {SPEC.format(1)}": "its hook codecvq_metrics returned MetricSpec",
    HOOK + "    return 'metric'": "returned 'metric'",
    HOOK + "    yield 'metric'": "yields 'metric'; this hook must yield MetricSpec",
    HOOK + "    raise SystemExit(0)": "tried to end the process",
    HOOK + "    raise KeyError('inside')": "KeyError: 'inside'",
    HOOK + "    yield MetricSpec(name=1, columns=('m',), factory=print)": "it must be of type str",
    HOOK + "    yield MetricSpec(name='m', columns='peak', factory=print)": "columns is 'peak'",
    HOOK + "    yield MetricSpec(name='m')": "TypeError",
}


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    monkeypatch.setattr(logging.getLogger("codecvq"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="codecvq")
    return lambda: [record.getMessage() for record in caplog.records]


def loaded() -> Registry:
    registry = Registry()
    registry.load_installed()
    registry.all("metrics")
    return registry


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("source", "warning"), MODULES.items(), ids=[warning[:40] for warning in MODULES.values()]
)
def test_a_failing_plugin_gives_one_warning_that_names_its_distribution(
    site: Path, warnings: Callable[[], list[str]], source: str, warning: str, request: pytest.FixtureRequest
) -> None:
    number = list(MODULES).index(source)  # a new module name each time, because Python caches imports
    install_distribution(site, f"bad-{number}", source)
    install_distribution(site, f"good-{number}", GOOD)
    registry = loaded()
    assert {"brightness", "mel_distance"} <= set(registry.all("metrics"))
    about = [text for text in warnings() if f"bad-{number} 1.0" in text]
    assert len(about) == 1, warnings()
    assert warning in about[0]
    assert "\n" not in about[0]
    assert len(about[0]) < 400
    registry.register(object(), "another")  # calls the hooks again
    registry.all("metrics")
    assert len([text for text in warnings() if f"bad-{number} 1.0" in text]) == 1


def test_termination_during_loading_is_not_suppressed(site: Path) -> None:
    install_distribution(site, "terminated", "from codecvq.signals import Terminated\nraise Terminated(15)")
    with pytest.raises(Terminated):
        loaded()


def test_a_keyboard_interrupt_during_loading_is_not_suppressed(site: Path) -> None:
    install_distribution(site, "interrupted", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        loaded()


def offering(hook: Callable[..., object]) -> Registry:
    registry = Registry()
    registry.register(type("Plugin", (), {"codecvq_metrics": staticmethod(hookimpl(hook))})(), "odd")
    return registry


def spec(number: int) -> MetricSpec:
    return MetricSpec(name=f"m{number}", columns=("m",), factory=lambda: None)


def half_way() -> object:
    yield spec(1)
    yield "not a spec"
    yield spec(2)
    raise ValueError("half way")


def endless() -> object:
    number = 0
    while True:
        number += 1
        yield spec(number)


def the_same_for_ever() -> object:
    while True:
        yield spec(1)


@pytest.mark.parametrize(
    ("hook", "registered", "warning"),
    [
        (half_way, 2, "half way"),
        (endless, MAX_SPECS_PER_HOOK, f"yields {MAX_SPECS_PER_HOOK} specs or more"),
        (the_same_for_ever, 1, f"yields {MAX_SPECS_PER_HOOK} specs or more"),
        (lambda: [spec(1), spec(2)], 2, ""),
        (lambda: [spec(1), spec(1)], 1, "yields the name 'm1' twice"),
    ],
    ids=["half way", "endless", "the same", "a list is fine", "twice"],
)
def test_specs_from_before_the_failure_of_a_hook_stay_registered(
    hook: Callable[..., object], registered: int, warning: str
) -> None:
    registry = offering(hook)
    assert len(registry.all("metrics")) == registered
    assert len(registry.failures) == bool(warning)
    assert warning in "".join(map(str, registry.failures))


def test_training_continues_after_a_hook_that_exits(warnings: Callable[[], list[str]]) -> None:
    registry, seen = Registry(), []
    hooks = {
        "ending": lambda run, step, scalars: sys.exit(0),
        "next": lambda run, step, scalars: seen.append(1),
    }
    for name, hook in hooks.items():
        plugin = type("Plugin", (), {"codecvq_train_logged": staticmethod(hookimpl(hook))})()
        registry.register(plugin, name)
    registry.call("codecvq_train_logged", run=None, step=1, scalars={})
    assert seen == [1]
    assert "ending failed: PluginError: it tried to end the process" in warnings()[-1]


def test_a_factory_that_exits_is_an_error(site: Path) -> None:
    (site / "ends_at_import.py").write_text("import sys; sys.exit(0)")
    registry = offering(lambda: [MetricSpec(name="m", columns=("m",), factory="ends_at_import:make")])
    with pytest.raises(PluginError, match=r"'ends_at_import:make'.*tried to end the process"):
        registry.find("metrics", "m").load()


@pytest.mark.parametrize("source", ["raise SystemExit(0)", "import sys; sys.exit()"])
def test_a_named_plugin_that_fails_is_an_error(tmp_path: Path, source: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(PluginError, match=r"mine\.py did not load: .*tried to end the process"):
        Registry().load(tmp_path / "mine.py")


@pytest.mark.parametrize("path", ["~nosuchuser/x.py", "a\0b.py", "a/" + "b" * 5000 + ".py"])
def test_an_invalid_plugin_path_is_an_error(path: str) -> None:
    with pytest.raises(PluginError, match="cannot be read"):
        Registry().load(path)


def test_distributions_with_broken_metadata_are_reported_and_the_others_load(
    site: Path, warnings: Callable[[], list[str]]
) -> None:
    install_distribution(site, "no-metadata", GOOD)
    (site / "no_metadata-1.0.dist-info/METADATA").unlink()
    install_distribution(site, "no-latin", GOOD)
    (site / "no_latin-1.0.dist-info/entry_points.txt").write_bytes(b"[codecvq]\n\xff\xfe = \xff\n")
    registry = loaded()
    assert "fsq" in registry.all("quantizers")
    assert "brightness" in registry.all("metrics"), "the module can be imported"
    assert registry.find("metrics", "brightness").origin.distribution == "no_metadata-1.0.dist-info"
    assert [text for text in warnings() if "no-latin" in text or "no_latin" in text]


def test_prints_of_plugins_do_not_corrupt_json_output(tmp_path: Path) -> None:
    """Output of Python, C code and child processes, at import and in a hook, with all misbehaving modules."""
    loud = "import os, subprocess, sys\nprint('loud')\nos.write(1, b'loud')\n"
    loud += "subprocess.run([sys.executable, '-c', 'print(\"loud\")'])\n"
    install_distribution(
        tmp_path, "loud-one", loud + HOOK + f"    print('loud'); yield {SPEC.format('loud')}\n"
    )
    for number, source in enumerate(MODULES):
        install_distribution(tmp_path, f"bad-{number}", source)
    done = run(sys.executable, "-m", "codecvq", "plugins", "list", "--json", site=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert {"fsq", "mloud"} <= {registration["name"] for registration in listed["offers"]}
    assert "loud" in done.stderr
    assert "Traceback" not in done.stderr
    for number in range(len(MODULES)):
        assert sum(f"bad-{number} " in line for line in done.stderr.splitlines()) == 1
    done = run(sys.executable, "-m", "codecvq", "plugins", "doctor", site=tmp_path)
    assert done.returncode == 1
    assert "SystemExit: 2" in done.stdout
    assert "argparse.ArgumentParser()" in done.stdout, "the line of the plugin"
    assert "codecvq/plugins/host.py" not in done.stdout
    assert "brightness" not in codecvq_command("plugins", "list")


def test_stdout_is_restored_after_prints_of_several_threads() -> None:
    program = (
        "import threading\n"
        "from codecvq.plugins.third_party import contained\n"
        "entered, leave = threading.Event(), threading.Event()\n"
        "def other():\n"
        "    with contained():\n"
        "        entered.set(); leave.wait(10); print('stray')\n"
        "thread = threading.Thread(target=other)\n"
        "with contained():\n"
        "    thread.start(); entered.wait(10); print('stray')\n"
        "leave.set(); thread.join()\n"
        "with contained():\n"
        "    print('stray')\n"
        "print('own')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "own\n"
    assert done.stderr.count("stray") == 3
