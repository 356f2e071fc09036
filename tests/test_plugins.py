"""The plugin system: who is found, what a broken plugin may do, names that two offer, files, and a stranger's distribution."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from codecvq import MetricSpec, QuantizerSpec, hookimpl
from codecvq.errors import PluginError, UnknownName
from codecvq.hookspecs import API_VERSION
from codecvq.plugins import Registry
from codecvq.plugins import registry as own_registry

ROOT = Path(__file__).resolve().parents[1]
TERNARY = ROOT / "plugins/example/codecvq-ternary"
ONE_FILE = """
from codecvq import MetricSpec, hookimpl

@hookimpl
def codecvq_metrics():
    yield MetricSpec(name="{name}", columns=("{name}",), factory=lambda: None, default=False)
"""


def run(*command: str | Path, site: Path | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which also finds what is installed in `site`."""
    paths = [str(p) for p in (site, ROOT, ROOT / "plugins") if p]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, cwd=cwd, timeout=120, check=False
    )


def codecvq_command(*arguments: str | Path, site: Path | None = None, cwd: Path | None = None) -> str:
    """What `codecvq …` prints, which must leave with 0."""
    done = run(sys.executable, "-m", "codecvq", *arguments, site=site, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def distribution(site: Path, name: str, source: str, entry: str = "", version: str = "1.0") -> None:
    """Install a distribution with one module and one entry point into a folder."""
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(source)
    info = site / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[codecvq]\n{entry or module} = {module}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which this process imports, and in which it finds distributions."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def loaded() -> Registry:
    registry = Registry()
    registry.load_installed()
    return registry


# Installed plugins


def test_every_entry_point_of_the_distribution_is_loaded() -> None:
    registry = loaded()
    entries = importlib.metadata.entry_points(group="codecvq")
    assert {entry.name for entry in entries} >= {"vq", "fsq", "simvq", "lfq", "rotation_vq", "residual_fsq"}
    assert registry.failures == []
    origins = {(o.distribution, o.entry_point) for o in registry.origins.values()}
    assert origins == {(entry.dist.name, entry.name) for entry in entries if entry.dist}
    assert {"vq", "fsq"} <= set(registry.quantizers())


def test_a_broken_distribution_stops_nothing_and_is_named(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    distribution(site, "broken-one", "import a_module_that_is_not_there")
    distribution(site, "broken-two", "raise SystemError('at import')")
    distribution(site, "whole-one", ONE_FILE.format(name="loudness"))
    with caplog.at_level(logging.WARNING, logger="codecvq"):
        own_registry()  # so that its warnings, if any, are not counted
        caplog.clear()
        registry = loaded()
    assert "loudness" in registry.metrics()
    assert "fsq" in registry.quantizers()
    assert {failure.origin.distribution for failure in registry.failures} == {"broken-one", "broken-two"}
    with pytest.raises(UnknownName) as error:
        registry.find("metrics", "loudnes")
    text = str(error.value)
    assert "Did you mean 'loudness'" in text
    assert "broken-one 1.0" in text
    assert "a_module_that_is_not_there" in text
    assert "SystemError: at import" in text
    assert "a_module_that_is_not_there" in registry.failures[0].details()


def test_a_hook_that_fails_when_asked_is_a_failure_of_its_plugin(site: Path) -> None:
    source = "from codecvq import hookimpl\n@hookimpl\ndef codecvq_metrics():\n    raise KeyError('inside')\n"
    distribution(site, "broken-hook", source)
    registry = loaded()
    assert "mel_distance" in registry.metrics()
    assert [str(f.origin.distribution) for f in registry.failures] == ["broken-hook"]


def test_two_distributions_may_offer_one_name_and_both_can_be_had(site: Path) -> None:
    distribution(site, "first-loudness", ONE_FILE.format(name="loudness"))
    distribution(site, "second-loudness", ONE_FILE.format(name="loudness"), version="2.5")
    registry = loaded()
    with pytest.raises(PluginError) as error:
        registry.find("metrics", "loudness")
    for part in ("first-loudness 1.0", "second-loudness 2.5", "first-loudness/loudness", "second-loudness/loudness"):
        assert part in str(error.value)
    assert registry.find("metrics", "second-loudness/loudness").origin.version == "2.5"
    assert {"first-loudness/loudness", "second-loudness/loudness"} <= set(registry.metrics())
    assert "loudness" not in registry.metrics()


def test_two_distributions_with_one_entry_point_name_are_both_loaded(site: Path) -> None:
    distribution(site, "first-loudness", ONE_FILE.format(name="loudness"), entry="loudness")
    distribution(site, "second-level", ONE_FILE.format(name="level"), entry="loudness")
    assert {"loudness", "level"} <= set(loaded().metrics())


def test_a_stranger_cannot_take_a_built_in_name_silently(site: Path) -> None:
    distribution(site, "own-mel", ONE_FILE.format(name="mel_distance"))
    registry = loaded()
    with pytest.raises(PluginError, match=r"offered by codecvq .* and by own-mel"):
        registry.find("metrics", "mel_distance")
    assert registry.find("metrics", "codecvq/mel_distance").origin.distribution == "codecvq"


def test_plugins_can_be_left_out(site: Path) -> None:
    distribution(site, "whole-one", ONE_FILE.format(name="loudness"))
    registry = Registry()
    registry.load_installed(disabled=["whole-one", "fsq"])
    assert "loudness" not in registry.metrics()
    assert "fsq" not in registry.quantizers()
    assert "vq" in registry.quantizers()


# Plugin objects


def plugin_with(function: Callable[..., object], name: str, marked: bool = True) -> object:
    return type("Plugin", (), {name: staticmethod(hookimpl(function) if marked else function)})()


def test_a_misspelt_hook_is_told_with_the_right_name() -> None:
    with pytest.raises(PluginError, match=r"'codecvq_quantisers'.*Did you mean 'codecvq_quantizers'"):
        Registry().register(plugin_with(lambda: [], "codecvq_quantisers"), "misspelt")


def test_a_hook_without_its_mark_is_told() -> None:
    with pytest.raises(PluginError, match=r"'codecvq_metrics' is not marked.*@codecvq.hookimpl"):
        Registry().register(plugin_with(lambda: [], "codecvq_metrics", marked=False), "unmarked")


def test_a_hook_with_unknown_arguments_is_refused_and_leaves_nothing() -> None:
    registry = Registry()
    with pytest.raises(Exception, match="surprise"):
        registry.register(plugin_with(lambda surprise: [], "codecvq_metrics"), "surprising")
    assert registry.metrics() == {}
    assert registry.origins == {}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (QuantizerSpec(name="new", factory="x:y", api=API_VERSION + 1), f"plugin API {API_VERSION + 1}, this codecvq has"),
        (QuantizerSpec(name="My VQ", factory="x:y"), "'My VQ'"),
        (MetricSpec(name="metric", factory="x:y", columns=("a",)), "QuantizerSpec"),
        ("vq", "'vq'"),
    ],
    ids=["newer api", "name", "kind", "no spec"],
)
def test_an_offer_that_cannot_be_used_is_kept_as_a_failure(spec: object, said: str) -> None:
    registry = Registry()
    registry.register(plugin_with(lambda: [spec], "codecvq_quantizers"), "odd")
    assert registry.quantizers() == {}
    assert said in str(registry.failures[0])
    assert "odd" in str(registry.failures[0])


def test_a_factory_that_does_not_import_is_told_when_it_is_asked_for() -> None:
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
    registry.register(plugin_with(lambda run, step, scalars: seen.append(step), "codecvq_train_logged"), "going_on")
    with caplog.at_level(logging.WARNING, logger="codecvq"):
        logging.getLogger("codecvq").propagate = True
        registry.call("codecvq_train_logged", run=None, step=7, scalars={})
    assert seen == [7]
    assert "disk is full" in caplog.text
    assert "failing" in caplog.text


def test_a_plugin_can_be_taken_back() -> None:
    registry = Registry()
    origin = registry.register(plugin_with(lambda: [QuantizerSpec(name="far", factory="x:y")], "codecvq_quantizers"), "far")
    assert "far" in registry.quantizers()
    registry.unregister(origin)
    assert registry.quantizers() == {}
    registry.register(plugin_with(lambda: [], "codecvq_quantizers"), "far")


# Files


def test_a_file_is_a_plugin_and_its_hash_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "my_metric.py"
    path.write_text(ONE_FILE.format(name="loudness"))
    registry = Registry()
    registry.load(path)
    registry.load(str(path))  # a second time changes nothing
    offer = registry.find("metrics", "loudness")
    assert offer.identity == {
        "name": "loudness",
        "plugin": "my_metric",
        "version": "",
        "file": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert registry.find("metrics", "my_metric/loudness") is offer
    path.write_text(ONE_FILE.format(name="louder"))
    with pytest.raises(PluginError, match="changed after it was loaded"):
        registry.load(path)


@pytest.mark.parametrize(
    ("source", "said"),
    [("syntax error here", "SyntaxError"), ("1 / 0", "ZeroDivisionError"), (None, "cannot be read")],
    ids=["syntax", "raises", "missing"],
)
def test_a_file_that_does_not_load_is_the_users_error(tmp_path: Path, source: str | None, said: str) -> None:
    path = tmp_path / "broken.py"
    if source is not None:
        path.write_text(source)
    registry = Registry()
    with pytest.raises(PluginError, match=said) as error:
        registry.load(path)
    assert str(path) in str(error.value)
    assert registry.origins == {}


def test_a_module_that_is_not_there_is_the_users_error() -> None:
    with pytest.raises(PluginError, match="a_module_that_is_not_there.*my_plugin.py"):
        Registry().load("a_module_that_is_not_there")


def test_nothing_is_loaded_from_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "my_metric.py").write_text(ONE_FILE.format(name="loudness"))
    assert "loudness" not in codecvq_command("plugins", "list", cwd=tmp_path)
    assert "loudness" in codecvq_command("plugins", "list", "--plugin", "./my_metric.py", cwd=tmp_path)


# The command line


def test_the_list_imports_no_torch() -> None:
    program = (
        "import sys\nfrom codecvq.cli.app import main\n"
        "try:\n    main(['plugins', 'list', '--json'])\nexcept SystemExit as leaving:\n    assert not leaving.code\n"
        "print(sorted({'torch', 'numpy', 'librosa'} & set(sys.modules)), file=sys.stderr)"
    )
    done = run(sys.executable, "-c", program)
    assert done.stderr.strip().splitlines()[-1] == "[]", done.stderr
    assert {offer["name"] for offer in json.loads(done.stdout)["offers"]} >= {"vq", "mel_distance", "spectral"}


def test_the_list_answers_at_once() -> None:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        codecvq_command("plugins", "list")
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < 1.2, times  # 0.4 s on a machine that has nothing else to do


@pytest.fixture
def command_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """`codecvq …` in this process and an empty folder: exit code, stdout, stderr. Files it loads are taken back afterwards."""
    from codecvq.cli.app import main

    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("codecvq")
    handlers, propagate, origins = logger.handlers, logger.propagate, dict(own_registry().origins)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leaving:
            main(list(arguments))
        captured = capsys.readouterr()
        return int(leaving.value.code or 0), captured.out, captured.err

    yield call
    logger.handlers, logger.propagate = handlers, propagate
    for name in set(own_registry().origins) - set(origins):
        own_registry().unregister(own_registry().origins[name])


ODD = """
from codecvq import Quantizer, QuantizerSpec, hookimpl

class Odd(Quantizer):
    def __init__(self, dim):
        super().__init__(dim, [2])

    def quantize(self, vectors):
        codes = (vectors[:, :1] > vectors.mean()).long()
        return self.dequantize(codes), codes

    def dequantize(self, codes):
        return codes.float().expand(-1, self.dim)

@hookimpl
def codecvq_quantizers():
    yield QuantizerSpec(name="odd", factory=Odd)
"""


def test_check_tells_in_words_in_json_and_by_its_exit_code(
    command_here: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    code, out, _ = command_here("plugins", "check", "odd", "--plugin", "./odd.py", "dim=4")
    assert code == 1
    assert "odd/frames_are_independent\n  promised: The codes of a frame depend on no other frame" in out
    assert "found: codes of frame 0 alone" in out
    code, out, _ = command_here("plugins", "check", "odd", "--json")
    report = json.loads(out)
    broken = [check["name"] for check in report["checks"] if not check["ok"]]
    assert code == 1
    assert len(broken) == report["broken"] > 0
    assert "odd/frames_are_independent" in broken
    assert "odd/shapes" not in broken


def test_check_leaves_with_0_where_all_is_kept(command_here: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command_here("plugins", "check", "grouped_fsq", "levels=[3,3]", "dim=4")
    assert code == 0
    assert "0 broken" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plugins", "check", "fsqq"], "Did you mean 'fsq'"),
        (["plugins", "check", "fsq"], "needs levels"),
        (["plugins", "check", "fsq", "levels"], "not key=value"),
        (["plugins", "check", "fsq", "levels=[5"], "not YAML"),
        (["new-plugin", "fsq"], "offered by codecvq"),
        (["new-plugin", "My-VQ"], "lower case"),
        (["new-plugin", "residual_mine"], "not with residual_"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_user_errors_are_one_line_and_exit_2(
    command_here: Callable[..., tuple[int, str, str]], arguments: list[str], said: str, tmp_path: Path
) -> None:
    code, _, err = command_here(*arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_new_plugin_overwrites_nothing(command_here: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    assert command_here("new-plugin", "my_vq")[0] == 0
    written = (tmp_path / "my_vq.py").read_text()
    code, _, err = command_here("new-plugin", "my_vq")
    assert code == 2
    assert "is there already" in err
    assert (tmp_path / "my_vq.py").read_text() == written


# A stranger's distributions, installed by pip


def install(source: Path, target: Path) -> None:
    """Install by pip, without the network where hatchling is here."""
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    done = run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *isolation, "--target", target, source
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def ternary_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the example distribution is installed."""
    site = tmp_path_factory.mktemp("site")
    install(TERNARY, site)
    return site


def test_the_example_is_listed_with_where_it_comes_from(ternary_site: Path) -> None:
    listed = json.loads(codecvq_command("plugins", "list", "--json", site=ternary_site))
    assert listed["failures"] == []
    mine = {(o["kind"], o["name"]): o["origin"] for o in listed["offers"] if o["distribution"] == "codecvq-ternary"}
    assert set(mine) == {("quantizers", "ternary"), ("estimators", "clipped_ste"), ("metrics", "level_difference")}
    assert set(mine.values()) == {"codecvq-ternary 0.1.0 (entry point 'ternary')"}


def test_the_example_passes_its_own_tests(ternary_site: Path, tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TERNARY / "tests", site=ternary_site, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_example_trains_out_of_tree(ternary_site: Path, tmp_path: Path) -> None:
    codecvq_command("train", "ternary-smoke", "--run", tmp_path / "run", site=ternary_site, cwd=tmp_path)
    config = json.loads((tmp_path / "run/codec/config.json").read_text())
    assert "codecvq-ternary" in json.dumps(config)
    rows = (tmp_path / "run/loss.csv").read_text().splitlines()
    assert rows[0] == "step,loss"
    assert [int(row.split(",")[0]) for row in rows[1:]] == [1, 2, 3, 4, 5]
    # Without the plugin, the codec says which one to bring.
    done = run(sys.executable, "-c", f"import codecvq; codecvq.load({str(tmp_path / 'run')!r})")
    assert done.returncode == 1
    assert "codecvq-ternary" in done.stderr.splitlines()[-1]


def test_a_broken_distribution_leaves_the_list_whole(tmp_path: Path) -> None:
    distribution(tmp_path, "codecvq-broken", "import a_module_that_is_not_there")
    done = run(sys.executable, "-m", "codecvq", "plugins", "list", site=tmp_path)
    assert done.returncode == 0
    assert "fsq" in done.stdout
    assert "not loaded: codecvq-broken 1.0" in done.stdout
    assert "codecvq-broken" in done.stderr
    assert "Traceback" not in done.stderr
    done = run(sys.executable, "-m", "codecvq", "plugins", "doctor", "--json", site=tmp_path)
    assert done.returncode == 1
    assert "a_module_that_is_not_there" in json.dumps(json.loads(done.stdout)["problems"])
