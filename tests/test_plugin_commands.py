"""Plugin commands, and a third-party distribution that pip installs outside the source tree."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from third_party_plugins import ROOT, codecvq_command, install_distribution, run

import codecvq
from codecvq.errors import CodecvqError
from codecvq.plugins import registry as own_registry

TERNARY = ROOT / "plugins/example/codecvq-ternary"


def test_plugins_list_does_not_import_torch() -> None:
    program = (
        "import sys\nfrom codecvq.cli.app import main\n"
        "try:\n    main(['plugins', 'list', '--json'])\n"
        "except SystemExit as leaving:\n    assert not leaving.code\n"
        "print(sorted({'torch', 'numpy', 'librosa'} & set(sys.modules)), file=sys.stderr)"
    )
    done = run(sys.executable, "-c", program)
    assert done.stderr.strip().splitlines()[-1] == "[]", done.stderr
    assert {registration["name"] for registration in json.loads(done.stdout)["offers"]} >= {
        "vq",
        "mel_distance",
        "spectral",
    }


@pytest.fixture
def codecvq_in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run `codecvq …` in this process, in an empty folder. Returns exit code, stdout and stderr.

    Loaded plugin files are unregistered afterwards.
    """
    from codecvq.cli.app import main

    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("codecvq")
    handlers, propagate, origins = logger.handlers, logger.propagate, dict(own_registry().origins)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_error:
            main(list(arguments))
        captured = capsys.readouterr()
        return int(exit_error.value.code or 0), captured.out, captured.err

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


def test_check_reports_as_text_as_json_and_by_exit_code(
    codecvq_in_process: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    code, out, _ = codecvq_in_process("plugins", "check", "odd", "--plugin", "./odd.py", "dim=4")
    assert code == 1
    assert "\nframes_are_independent\n  contract: Codes and values of a frame depend on no other frame" in out
    assert "  found in odd" in out
    assert ": values of frame 0 alone, compared with the whole: " in out
    assert "at odd.py:8, in quantize\n      def quantize(self, vectors):\n" in out
    code, out, _ = codecvq_in_process("plugins", "check", "odd", "--json")
    report = json.loads(out)
    broken = [check["name"] for check in report["checks"] if not check["ok"]]
    assert code == 1
    assert len(broken) == report["broken"] > 0
    assert "odd/frames_are_independent" in broken
    assert "odd/shapes" not in broken


ODD_PLUGIN = f"""{ODD}
class Raises(Odd):
    def dequantize(self, codes):
        if len(codes) == 1:
            raise RuntimeError("one vector")
        return super().dequantize(codes)

class OneCodeTooFew(Odd):
    def quantize(self, vectors):
        values, codes = super().quantize(vectors)
        return values, codes[:0]

class TwoBooks(Odd):
    def __init__(self, dim):
        Quantizer.__init__(self, dim, [2, 2])

    def quantize(self, vectors):
        codes = (vectors[:, :2] > 0).long()
        return self.dequantize(codes), codes

    def dequantize(self, codes):
        return codes[:, :1].float().expand(-1, self.dim) - codes[:, 1:].float() / 2

@hookimpl
def codecvq_quantizers():
    for factory in (Odd, Raises, OneCodeTooFew, TwoBooks):
        yield QuantizerSpec(name=factory.__name__.lower(), factory=factory)
"""


@pytest.fixture
def run_check(
    codecvq_in_process: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """Run `codecvq plugins check …` on a quantizer of ODD_PLUGIN. Returns exit code and stdout."""
    (tmp_path / "odder.py").write_text(ODD_PLUGIN)
    return lambda *arguments: codecvq_in_process("plugins", "check", *arguments, "--plugin", "./odder.py")[:2]


def line_of(source: str, text: str) -> int:
    return next(n for n, line in enumerate(source.splitlines(), start=1) if text in line)


def test_check_prints_the_raising_line_once(
    run_check: Callable[..., tuple[int, str]],
) -> None:
    code, out = run_check("raises", "dim=4")
    assert code == 1
    assert out.count("it raised RuntimeError: one vector") == 1
    place = f"at odder.py:{line_of(ODD_PLUGIN, 'raise RuntimeError')}, in dequantize"
    assert f'{place}\n      raise RuntimeError("one vector")\n' in out


def test_a_wrong_shape_skips_the_remaining_checks(
    run_check: Callable[..., tuple[int, str]],
) -> None:
    code, out = run_check("onecodetoofew", "dim=4")
    assert code == 1
    assert "2 checks, 1 broken" in out
    assert out.count("found in") == 1
    assert (
        "of onecodetoofew, residual_onecodetoofew, multiscale_onecodetoofew, grouped_onecodetoofew skipped, "
        "because onecodetoofew/shapes" in out
    )


def test_a_form_rejected_by_design_is_no_failure(run_check: Callable[..., tuple[int, str]]) -> None:
    code, out = run_check("twobooks", "dim=4")
    assert code == 0
    assert "residual_twobooks refused: a residual stage has one codebook" in out


def test_check_options_select_forms_and_expected_failures(
    run_check: Callable[..., tuple[int, str]],
) -> None:
    code, out = run_check("odd", "dim=4", "-x")
    assert (code, out.count("BROKEN")) == (1, 1)
    code, out = run_check("odd", "dim=4", "--forms", "plain,grouped")
    assert "grouped_odd" in out
    assert "residual_odd" not in out
    reason = "it looks at the batch"
    expected = [f"--expect={each}_are_independent={reason}" for each in ("items", "frames")]
    code, out = run_check("odd", "dim=4", "--forms", "plain", *expected)
    assert code == 0, out
    assert "frames_are_independent fails as expected in odd: it looks at the batch" in out
    code, out = run_check("odd", "dim=4", "--forms", "plain", *expected, "--expect", "one_frame=why not")
    assert code == 1
    assert "it passes but is expected to fail (why not)" in out


def test_check_lists_parameters_with_gradients_from_the_task_loss(
    run_check: Callable[..., tuple[int, str]],
) -> None:
    _, out = run_check("vq", "codebook_size=4", "codebook_dim=3", "--forms", "plain")
    assert "vq reaches latents, project_in.weight, project_in.bias, project_out.weight" in out


def test_check_detects_the_kind_of_a_name(run_check: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, out = run_check("seanet", "filters=2", "dim=4", "lstm_layers=0", "ratios=[4,2]")
    assert code == 0, out
    assert "decoder_reach" in out
    torch.manual_seed(0)
    network = {"name": "seanet", "filters": 2, "dim": 4, "lstm_layers": 0, "ratios": [4, 2]}
    quantizer = {"name": "lfq", "bits": 4}
    codecvq.Codec(sample_rate=16_000, network=network, quantizer=quantizer).save(tmp_path / "my-codec")
    code, out = run_check("./my-codec")
    assert code == 0, out
    assert "cvq_file" in out


def test_check_exits_with_0_if_all_checks_pass(
    codecvq_in_process: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, _ = codecvq_in_process("plugins", "check", "grouped_fsq", "levels=[3,3]", "dim=4")
    assert code == 0
    assert "0 broken" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plugins", "check", "fsqq"], "Did you mean 'fsq'"),
        (["plugins", "check", "fsq"], "needs levels"),
        (["plugins", "check", "fsq", "levels"], "not key=value"),
        (["plugins", "check", "fsq", "levels=[5"], "not YAML"),
        (
            ["plugins", "check", "fsq", "levels=[5]", "--forms", "twice"],
            "one of plain, residual, multiscale, grouped",
        ),
        (["plugins", "check", "fsq", "levels=[5]", "--expect", "shapes"], "not CHECK=REASON"),
        (["plugins", "check", "fsq", "levels=[5]", "--expect", "shape=x"], "Did you mean 'shapes'"),
        (["plugins", "check", "fsq", "levels=[5]", "--kind", "metric"], "quantizer, network, codec"),
        (["plugins", "check", "seanet", "--forms", "plain"], "--forms applies only to quantizers"),
        (["plugins", "check", "speech-16k", "dim=4"], "which has no options"),
        (["plugins", "check", "opus-6"], "no codes"),
        (["plugins", "check", "ms_stft"], "discriminator"),
        (["new-plugin", "fsq"], "registered by codecvq"),
        (["new-plugin", "My-VQ"], "lowercase"),
        (["new-plugin", "residual_mine"], "not with residual_"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_user_errors_print_one_line_and_exit_with_2(
    codecvq_in_process: Callable[..., tuple[int, str, str]],
    arguments: list[str],
    message: str,
    tmp_path: Path,
) -> None:
    code, _, err = codecvq_in_process(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_new_plugin_does_not_overwrite_files(
    codecvq_in_process: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    assert codecvq_in_process("new-plugin", "my_vq")[0] == 0
    written = (tmp_path / "my_vq.py").read_text()
    code, _, err = codecvq_in_process("new-plugin", "my_vq")
    assert code == 2
    assert "already exists" in err
    assert (tmp_path / "my_vq.py").read_text() == written


# Third-party distributions, installed by pip


def install(source: Path, target: Path) -> None:
    """Install with pip. Uses no network if hatchling is installed."""
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


def test_the_example_is_listed_with_its_origin(ternary_site: Path) -> None:
    listed = json.loads(codecvq_command("plugins", "list", "--json", site=ternary_site))
    assert listed["failures"] == []
    mine = {
        (o["kind"], o["name"]): o["origin"]
        for o in listed["offers"]
        if o["distribution"] == "codecvq-ternary"
    }
    assert set(mine) == {
        ("quantizers", "ternary"),
        ("estimators", "clipped_ste"),
        ("metrics", "level_difference"),
    }
    assert set(mine.values()) == {"codecvq-ternary 0.1.0 (entry point 'ternary')"}


@pytest.mark.slow
def test_the_example_passes_its_own_tests(ternary_site: Path, tmp_path: Path) -> None:
    done = run(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        TERNARY / "tests",
        site=ternary_site,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_example_trains_out_of_tree(ternary_site: Path, tmp_path: Path) -> None:
    codecvq_command("train", "ternary-smoke", "--run", tmp_path / "run", site=ternary_site, cwd=tmp_path)
    config = json.loads((tmp_path / "run/codec/config.json").read_text())
    assert "codecvq-ternary" in json.dumps(config)
    rows = (tmp_path / "run/loss.csv").read_text().splitlines()
    assert rows[0] == "step,loss"
    assert [int(row.split(",")[0]) for row in rows[1:]] == [1, 2, 3, 4, 5]
    # Without the plugin, the error names the missing distribution.
    with pytest.raises(CodecvqError, match="codecvq-ternary"):
        codecvq.load(tmp_path / "run")


def test_plugins_list_works_with_a_broken_distribution(tmp_path: Path) -> None:
    install_distribution(tmp_path, "codecvq-broken", "import a_module_that_is_not_there")
    done = run(sys.executable, "-m", "codecvq", "plugins", "list", site=tmp_path)
    assert done.returncode == 0
    assert "fsq" in done.stdout
    assert "not loaded: codecvq-broken 1.0" in done.stdout
    assert "codecvq-broken" in done.stderr
    assert "Traceback" not in done.stderr
    done = run(sys.executable, "-m", "codecvq", "plugins", "doctor", "--json", site=tmp_path)
    assert done.returncode == 1
    assert "a_module_that_is_not_there" in json.dumps(json.loads(done.stdout)["problems"])


@pytest.mark.parametrize("into", ["a\0b", "x" * 5000, "/dev/null", "/dev/null/x"], ids=lambda text: text[:9])
def test_an_invalid_folder_prints_one_line(
    codecvq_in_process: Callable[..., tuple[int, str, str]], into: str
) -> None:
    code, _, err = codecvq_in_process("new-plugin", "my_vq", "--into", into)
    assert code == 2
    assert "--into" in err


@pytest.mark.parametrize("name", ["x" * 61, "x" * 5000])
def test_a_too_long_name_prints_one_line(
    codecvq_in_process: Callable[..., tuple[int, str, str]], name: str
) -> None:
    code, _, err = codecvq_in_process("new-plugin", name)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "up to 60" in err


def test_a_device_file_is_rejected_as_plugin(codecvq_in_process: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = codecvq_in_process("plugins", "list", "--plugin", "/dev/zero")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "is not a regular file" in err
