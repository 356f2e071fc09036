"""plugins/README.md and the plugins' own pages: blocks are run, tables compared, names looked for."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import codecvq.quantizer
from codecvq.api import hookspecs
from codecvq.losses import LossInputs
from codecvq.plugins import PROJECT, Registry, registry
from codecvq.quantizer.build import quantizer_options

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "plugins/README.md"
AUTHORS = ROOT / "docs/reference/quantizer-contract.md"
PAGES = sorted(
    path for path in ROOT.glob("plugins/codecvq_*/README.md") if (path.parent / "quantizer.py").is_file()
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.\w+)\n")


def environment(folder: Path) -> dict[str, str]:
    """Variables with which commands find this Python's programs and install into `folder`/site, offline."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name, module in {"codecvq": "codecvq", "pip": "pip", "pytest": "pytest"}.items():
        script = bin_folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        script.chmod(0o755)
    paths = (folder / "site", ROOT, ROOT / "plugins")
    variables = {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths),
        "PIP_TARGET": str(folder / "site"),
        "PIP_NO_DEPS": "1",
        "PIP_QUIET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTEST_ADDOPTS": "-q -p no:cacheprovider",
    }
    if importlib.util.find_spec("hatchling"):
        # pip reads this variable as "build isolation": a false value switches it off.
        variables |= {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1"}
    return os.environ | variables


@pytest.mark.slow
def test_every_block_of_the_guide_runs(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    variables = environment(tmp_path)
    blocks = BLOCK.findall(GUIDE.read_text(encoding="utf-8"))
    assert {language for language, _ in blocks} == {"sh", "python", "yaml"}
    for language, text in blocks:
        named = FILE.match(text)
        if named:
            path = work / named[1]
            content = text[named.end() :]
            if path.exists():  # the guide shows what a command has written
                assert path.read_text(encoding="utf-8") == content, (
                    f"{named[1]} differs from what the guide shows"
                )
            path.write_text(content, encoding="utf-8")
            continue
        command = ["bash", "-e", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=work, env=variables, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_what_the_hooks_of_the_guide_offer_works(tmp_path: Path) -> None:
    blocks = [text for _, text in BLOCK.findall(GUIDE.read_text(encoding="utf-8"))]
    (tmp_path / "my_hooks.py").write_text(next(text for text in blocks if text.startswith("# my_hooks.py")))
    own = Registry()
    own.load(tmp_path / "my_hooks.py")
    quantizer = own.find("quantizers", "small_fsq").load()(dim=6)
    assert quantizer(torch.randn(2, 6, 3)).codes.shape == (2, 1, 3)
    assert own.find("estimators", "half").load()(torch.ones(2, 3), None, None).tolist() == [[0.5] * 3] * 2
    network = own.find("networks", "plain").load()(sample_rate=16_000)
    latents = network.encoder(torch.randn(2, 1, 640), None)
    assert latents.shape == (2, network.dim, 2)
    assert network.decoder(latents, None).shape == (2, 1, 640)
    given = {"sample_rate": 16_000, "hop_length": 320, "causal": False, "lookahead_frames": 0}
    loudness = own.find("network_parts", "loudness").load()(**given)
    assert loudness(torch.ones(2, 1, 640)).shape == (2, 2, loudness.num_features)
    energy = own.find("losses", "energy").load()(sample_rate=16_000)
    energy.setup(SimpleNamespace(latent_dim=6))
    audio = torch.randn(2, 1, 640)
    inputs = LossInputs(decoded=audio, reference=audio, quantized=torch.randn(2, 6, 2))
    assert energy(inputs).shape == ()
    envelope = own.find("teachers", "envelope").load()(sample_rate=16_000)
    assert envelope.features(audio).shape == (2, envelope.dim, 4)
    peak = own.find("metrics", "peak").load()()
    assert peak(np.zeros(3), np.array([0.0, -2.0, 1.0]), 16_000) == {"peak": 2.0}
    sent = own.find("codecs", "one-bit").load()().transmit(np.array([0.5, -0.1], np.float32), 16_000)
    assert (sent.samples.tolist(), sent.payload_bits) == ([pytest.approx(0.3), pytest.approx(-0.3)], 2)
    (tmp_path / "one.wav").touch()
    assert [clip.id for clip in own.find("corpora", "my_speech").load()(tmp_path)] == ["one"]
    (tmp_path / "wav.scp").write_text("a one.wav\nb sox -|\n")
    reader = own.find("readers", "wav_scp")
    assert reader.import_field(reader.spec.matches, "matches")(str(tmp_path / "wav.scp"))
    clip, failure = reader.load()(str(tmp_path / "wav.scp"), language="en")
    assert (clip.id, clip.path, clip.language) == ("a", tmp_path / "one.wav", "en")
    assert (failure.id, failure.error) == ("line 2", "commands are not run")
    folder = SimpleNamespace(path=tmp_path)
    run = SimpleNamespace(folder=folder, state={})
    own.call("codecvq_train_start", run=run)
    own.call("codecvq_train_logged", run=run, step=1, scalars={"loss/total": 2.5})
    assert "my_hooks" in run.state


def test_the_table_of_the_guide_is_what_is_listed() -> None:
    rows = re.findall(r"^\| (\w+) \| `([\w/-]+)` \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    program = [sys.executable, "-m", "codecvq", "plugins", "list", "--json"]
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "plugins"))
    done = subprocess.run(
        program, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}, check=True
    )
    listed = {
        (o["kind"], o["name"]) for o in json.loads(done.stdout)["offers"] if o["distribution"] == "codecvq"
    }
    assert set(rows) == listed
    assert len(rows) == len(listed)


def test_every_place_of_the_guide_exists() -> None:
    for page in (GUIDE, AUTHORS):
        for target in re.findall(r"\]\(([^):#]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), target


def test_every_hook_is_in_the_guide() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")]
    assert len(hooks) >= 8
    text = GUIDE.read_text(encoding="utf-8")
    assert [name for name in hooks if f"def {name}(" not in text] == []


def test_everything_an_author_can_override_or_use_is_in_the_guide() -> None:
    text = GUIDE.read_text(encoding="utf-8") + AUTHORS.read_text(encoding="utf-8")
    members = [
        n for n in vars(codecvq.quantizer.Quantizer) if not n.startswith("_") and n not in vars(nn.Module)
    ]
    names = {*members, "forward", *codecvq.quantizer.__all__}
    assert {"quantize", "dequantize", "bound", "terms", "update", "stage_scale", "refines"} <= names
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_options_of_a_page_are_those_of_the_quantizer(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    offered = [
        n
        for n, o in registry().all("quantizers").items()
        if getattr(o.module, "__name__", "") == page.parent.name
    ]
    assert re.findall(r"^\| option of `(\w+)`", text, re.MULTILINE) == sorted(offered, key=text.index)
    assert offered
    for name in offered:
        table = re.search(rf"^\| option of `{name}`.*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)
        assert table
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", table[0], re.MULTILINE)
        needed = [
            (option, "–" if default is inspect.Parameter.empty else f"`{default!r}`")
            for option, default in quantizer_options(name).items()
        ]
        assert rows == needed


def test_every_quantizer_plugin_has_a_page() -> None:
    folders = {path.parent for path in ROOT.glob("plugins/codecvq_*/quantizer.py")}
    assert folders == {page.parent for page in PAGES}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for needed in ("**When to take it.**", "**When not.**", "**Traps.**", "arXiv:"):
            assert needed in text, f"{page}: {needed}"
