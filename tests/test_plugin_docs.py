"""The plugins of the how-to pages work, and the reference lists every plugin, hook and author method."""

from __future__ import annotations

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
from doc_blocks import FILE, ROOT, blocks, make_user_folder, run_page
from torch import nn

import codecvq.quantizer
from codecvq.api import hookspecs
from codecvq.losses import LossInputs
from codecvq.plugins import PROJECT, Registry
from scripts.docs.generated import filled

README = ROOT / "plugins/README.md"
HOW_TO = ROOT / "docs/how-to"
CONTRACT = ROOT / "docs/reference/quantizer-contract.md"


@pytest.mark.slow
def test_every_code_block_of_the_readme_runs(tmp_path: Path) -> None:
    run_page(README, make_user_folder(tmp_path / "user"), tmp_path)


@pytest.fixture
def page_plugins(tmp_path: Path) -> Registry:
    """A registry with the plugins of the how-to pages, without those that show files of the repository."""
    page_plugins = Registry()
    for page in sorted(HOW_TO.glob("*.md")):
        for block in blocks(page):
            named = FILE.match(block.text) if block.language == "python" else None
            if named and "@hookimpl" in block.text and "/" not in named[1]:
                (tmp_path / named[1]).write_text(block.text)
                page_plugins.load(tmp_path / named[1])
    return page_plugins


def test_estimators_networks_and_teachers_of_the_pages_work(page_plugins: Registry) -> None:
    clipped = page_plugins.find("estimators", "clipped").load()
    assert clipped(torch.ones(1, 2), torch.tensor([[0.5, 2.0]]), None).tolist() == [[1.0, 0.0]]
    network = page_plugins.find("networks", "plain").load()(sample_rate=16_000)
    latents = network.encoder(torch.randn(2, 1, 640), None)
    assert latents.shape == (2, network.dim, 2)
    assert network.decoder(latents, None).shape == (2, 1, 640)
    given = {"sample_rate": 16_000, "hop_length": 320, "causal": False, "lookahead_frames": 0}
    loudness = page_plugins.find("network_parts", "loudness").load()(**given)
    assert loudness(torch.ones(2, 1, 640)).shape == (2, 2, loudness.num_features)
    outputs = page_plugins.find("networks", "samples").load()(sample_rate=16_000)(torch.randn(2, 1, 640))
    assert [len(output.features) for output in outputs] == [2]
    envelope = page_plugins.find("teachers", "envelope").load()(sample_rate=16_000)
    assert envelope.features(torch.randn(2, 1, 640)).shape == (2, envelope.dim, 4)


def test_codecs_corpora_and_readers_of_the_pages_work(page_plugins: Registry, tmp_path: Path) -> None:
    sent = page_plugins.find("codecs", "one-bit").load()().transmit(np.array([0.5, -0.1], np.float32), 16_000)
    assert (sent.samples.tolist(), sent.payload_bits) == ([pytest.approx(0.3), pytest.approx(-0.3)], 2)
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/one.wav").touch()
    assert [clip.id for clip in page_plugins.find("corpora", "my_speech").load()(tmp_path / "audio")] == [
        "one"
    ]
    (tmp_path / "wav.scp").write_text("a one.wav\nb sox -|\n")
    reader = page_plugins.find("readers", "wav_scp")
    assert reader.import_field(reader.spec.matches, "matches")(str(tmp_path / "wav.scp"))
    clip, failure = reader.load()(str(tmp_path / "wav.scp"), language="en")
    assert (clip.id, clip.path, clip.language) == ("a", tmp_path / "one.wav", "en")
    assert (failure.id, failure.error) == ("line 2", "commands are not run")


def test_losses_and_metrics_of_the_pages_work(page_plugins: Registry) -> None:
    audio = torch.randn(2, 1, 640)
    inputs = LossInputs(decoded=audio, reference=audio, quantized=torch.randn(2, 6, 2))
    energy = page_plugins.find("losses", "energy").load()(sample_rate=16_000)
    energy.setup(SimpleNamespace(latent_dim=6))
    assert energy(inputs).shape == ()
    assert page_plugins.find("losses", "envelope").load()(sample_rate=16_000)(inputs) == 0
    level = page_plugins.find("metrics", "level_difference").load()()
    wav = np.array([0.0, -2.0, 1.0])
    assert level(wav, 10 * wav, 16_000) == {"level_difference": pytest.approx(20.0)}


def test_hooks_of_a_training_of_the_pages_work(page_plugins: Registry, tmp_path: Path) -> None:
    run = SimpleNamespace(folder=SimpleNamespace(path=tmp_path), state={})
    page_plugins.call("codecvq_train_start", run=run)
    page_plugins.call("codecvq_train_logged", run=run, step=1, scalars={"loss/total": 2.5})
    assert (tmp_path / "loss.csv").read_text().split() == ["1,2.5"]


def test_every_bundled_plugin_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/bundled-plugins.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"<!-- generated: plugins (\w+) -->\n()", page))
    program = [sys.executable, "-m", "codecvq", "plugins", "list", "--json"]
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "plugins"))
    done = subprocess.run(
        program, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}, check=True
    )
    listed = {
        (o["kind"], o["name"]) for o in json.loads(done.stdout)["offers"] if o["distribution"] == "codecvq"
    }
    shown = {
        (kind, name)
        for kind in sections
        for name in re.findall(r"^\| <code>(.+?)</code>", filled(f"<!-- generated: plugins {kind} -->"), re.M)
    }
    kinds = {kind for kind, _ in listed}  # recipes are listed by another command
    assert {(kind, name) for kind, name in shown if kind in kinds} == listed
    assert len(listed) > 70


def test_readme_links_point_to_files() -> None:
    for target in re.findall(r"\]\(([^):#]+)(?:#[\w-]+)?\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
    folders = {path.name for path in README.parent.glob("codecvq_*") if (path / "__init__.py").is_file()}
    assert folders <= set(re.findall(r"\]\(([^)]+)\)", README.read_text(encoding="utf-8")))


def test_every_hook_has_an_example_in_the_how_to_pages() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")]
    assert len(hooks) >= 8
    text = "\n".join(page.read_text(encoding="utf-8") for page in HOW_TO.glob("*.md"))
    assert [name for name in hooks if f"def {name}(" not in text] == []


def test_the_contract_names_every_public_member() -> None:
    text = CONTRACT.read_text(encoding="utf-8")
    members = [
        n for n in vars(codecvq.quantizer.Quantizer) if not n.startswith("_") and n not in vars(nn.Module)
    ]
    names = {*members, "forward", *codecvq.quantizer.__all__}
    assert {"quantize", "dequantize", "bound", "terms", "update", "stage_scale", "refines"} <= names
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", text)] == []
