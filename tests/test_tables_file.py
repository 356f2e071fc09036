"""Code tables of a saved codec: its folder, files coded with them, damaged tables, training, the command."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import codecvq
from codecvq.bitstream import pack, unpack
from codecvq.bitstream.table_search import learn_tables
from codecvq.cli.app import main
from codecvq.codec import Codec
from codecvq.codec.config import CONFIG
from codecvq.codec.tables_file import MAX_FILE_ENTRIES, TABLES, read_tables, write_tables
from codecvq.data import open_corpus
from codecvq.errors import BitstreamError, CodecError, OptionError
from codecvq.evaluation.bitrate import CodeCounter, file_bytes, rates
from codecvq.quantizer import CodeTables
from codecvq.training import loop
from codecvq.training.recipe import load_recipe
from codecvq.training.table_learning import learn_code_tables
from recipes import write_recipe

NETWORK = {
    "name": "spectral", "hop_length": 320, "window_length": 1280, "num_mels": 20, "dim": 8,
    "encoder_width": 16, "encoder_blocks": 1, "decoder_width": 16, "decoder_blocks": 1,
}  # fmt: skip
QUANTIZER = {"name": "fsq", "levels": [8, 5], "num_codebooks": 3}


def new_codec(seed: int = 0) -> Codec:
    torch.manual_seed(seed)
    return Codec(sample_rate=16000, network=NETWORK, quantizer=QUANTIZER).eval()


def some_tables(seed: int = 0, sizes: tuple[int, ...] = (40, 40, 40)) -> CodeTables:
    """Tables with several contexts, also classes."""
    rng = np.random.default_rng(seed)
    walks = [np.cumsum(rng.integers(0, 2, (len(sizes), 600)), axis=1) % 40 for _ in range(12)]
    learned = learn_tables(walks[:9], walks[9:], sizes, levels=[(40,), (8, 5), (40,)][: len(sizes)], piece=50)
    assert learned is not None
    return learned.tables


@pytest.fixture(scope="module")
def tables() -> CodeTables:
    return some_tables()


@pytest.fixture
def folder(tmp_path: Path, tables: CodeTables) -> Path:
    codec = new_codec()
    codec.set_code_tables(tables)
    return codec.save(tmp_path / "codec")


def test_a_codec_is_saved_with_its_tables_and_unchanged_hashes(folder: Path, tables: CodeTables) -> None:
    codec, plain = codecvq.load(folder), new_codec()
    stored = codec.code_tables()
    assert stored is not None
    assert stored.sha256 == tables.sha256
    assert codec.codebooks_sha256 == plain.codebooks_sha256
    assert codec.weights_sha256 == plain.weights_sha256
    wav = torch.randn(1, 1, 16000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(codec.encode(wav), plain.encode(wav))
    assert torch.equal(codec.decode(codec.encode(wav)), plain.decode(plain.encode(wav)))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_files_are_coded_with_the_tables_of_the_folder(folder: Path, depth: int) -> None:
    codec = codecvq.load(folder)
    codes = np.cumsum(np.random.default_rng(9).integers(0, 2, (3, 300)), axis=1)[:depth] % 40
    data = pack(codec, codes, 300 * 320)
    assert unpack(data, codecvq.load(folder)).kind == "learned"
    assert np.array_equal(unpack(data, codecvq.load(folder)).codes, codes)
    assert len(data) < 0.8 * len(pack(new_codec(), codes, 300 * 320))


def test_a_file_needs_the_tables_that_it_was_coded_with(folder: Path) -> None:
    codes = np.cumsum(np.random.default_rng(9).integers(0, 2, (3, 300)), axis=1) % 40
    data = pack(codecvq.load(folder), codes, 300 * 320)
    other = new_codec()
    other.set_code_tables(some_tables(seed=1))
    for force in (False, True):
        with pytest.raises(BitstreamError, match=r"learned tables .* but codec 'codec' has other tables"):
            unpack(data, other, force=force)
        with pytest.raises(BitstreamError, match="coded with learned tables"):
            unpack(data, new_codec(), force=force)
    plain = pack(new_codec(), codes, 300 * 320)  # files without tables need none
    assert np.array_equal(unpack(plain, other).codes, codes)
    assert np.array_equal(unpack(plain, codecvq.load(folder)).codes, codes)


def test_measured_bit_rates_use_the_tables(folder: Path) -> None:
    codec = codecvq.load(folder)
    codes = np.cumsum(np.random.default_rng(9).integers(0, 2, (3, 300)), axis=1) % 40
    coded, plain = (file_bytes(each, codes, 300 * 320) for each in (codec, new_codec()))
    assert coded.entropy_kind == "learned" != plain.entropy_kind
    assert coded.entropy_payload_bits < 0.8 * plain.entropy_payload_bits
    assert coded.packed_payload_bits == plain.packed_payload_bits
    counter = CodeCounter(codec.codebook_sizes)
    assert rates(counter, 50, 12, [coded, plain], 12).table_share == 0.5
    assert rates(counter, 50, 12).table_share is None


def test_a_folder_without_tables_loads(folder: Path) -> None:
    (folder / TABLES).unlink()
    codec = codecvq.load(folder)
    assert codec.code_tables() is None


def test_tables_stay_with_their_codebooks_when_a_codec_is_saved_again(folder: Path) -> None:
    before = (folder / TABLES).read_bytes()
    new_codec().save(folder)
    assert (folder / TABLES).read_bytes() == before
    new_codec(seed=1).save(folder)  # other weights
    assert not (folder / TABLES).exists()
    assert codecvq.load(folder).code_tables() is None


def test_a_rounded_codec_keeps_its_tables(tmp_path: Path, tables: CodeTables) -> None:
    codec = new_codec()
    codec.set_code_tables(tables)
    rounded = codecvq.load(codec.save(tmp_path / "half", torch.bfloat16))
    assert rounded.codebooks_sha256 != codec.codebooks_sha256
    stored = rounded.code_tables()
    assert stored is not None
    assert stored.sha256 == tables.sha256


def test_unsuitable_tables_are_rejected(tables: CodeTables) -> None:
    codec = new_codec()
    with pytest.raises(OptionError, match="2 x 40 entries, but codec 'codec' has 3 x 40"):
        codec.set_code_tables(some_tables(sizes=(40, 40)))
    codec.quantizer.code_tables = lambda: tables  # type: ignore[method-assign]
    with pytest.raises(OptionError, match="quantizer 'fsq' of codec 'codec' provides code tables"):
        codec.set_code_tables(tables)
    with pytest.raises(OptionError, match="provides code tables"):
        learn_code_tables(codec, open_corpus("prompts"), 1)


def test_tables_that_are_too_large_are_not_stored(tmp_path: Path) -> None:
    large = CodeTables.uniform((600,), contexts=("previous",))
    assert large.entries > MAX_FILE_ENTRIES
    with pytest.raises(CodecError, match="cannot be stored; at most"):
        write_tables(tmp_path, large, "0" * 64)
    assert not (tmp_path / TABLES).exists()


def changed(folder: Path, **values: object) -> None:
    path = folder / TABLES
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"codebooks_sha256": "0" * 64}, "has the tables of the codebooks 000000000000"),
        ({"sha256": "0" * 64}, "does not match its sha256"),
        ({"step": 65}, "does not match its sha256"),
        ({"step": 1 << 40}, "step is 1099511627776"),
        ({"format": "codecvq.code_tables/9"}, "has format 'codecvq.code_tables/9'"),
        ({"symbols": []}, "the symbols of codebook 0 make 1 codes"),
        ({"codebook_sizes": [40, 40]}, "is damaged"),
        ({"extra": 1}, "extra is not a key"),
    ],
    ids=str,
)
def test_changed_tables_raise_one_error(folder: Path, values: dict[str, object], error: str) -> None:
    changed(folder, **values)
    with pytest.raises(CodecError, match=error):
        codecvq.load(folder)


def test_tables_of_other_sizes_raise_when_loading(folder: Path) -> None:
    codec = new_codec()
    write_tables(folder, some_tables(sizes=(40, 40)), codec.codebooks_sha256)
    with pytest.raises(CodecError, match=f"{TABLES}: the tables have codebooks of 2 x 40 entries"):
        codecvq.load(folder)


def mutations(content: bytes, count: int, seed: int) -> list[bytes]:
    """Damaged copies: changed bytes, cuts, repeats, and JSON with changed numbers and keys."""
    rng = random.Random(seed)
    results = []
    for n in range(count):
        data = bytearray(content)
        kind = n % 4
        if kind == 0:
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == 1:
            data = data[: rng.randrange(len(data))]
        elif kind == 2:
            at = rng.randrange(len(data))
            data[at:at] = data[at : at + rng.randint(1, 300)]
        else:
            tree = json.loads(content)
            symbol = rng.choice(tree["symbols"])
            where = rng.choice([tree, symbol, *symbol["contexts"]])
            key = rng.choice(sorted(where))
            value = rng.choice([-1, 0, 1, 2, 41, 4097, 2**62, 2**70, 0.5, "x", None, [], [1] * 41, [0], {}])
            where[key] = value
            data = bytearray(json.dumps(tree).encode())
        results.append(bytes(data))
    return results


def test_damaged_tables_only_raise_codec_errors(tmp_path: Path, tables: CodeTables) -> None:
    content = write_tables(tmp_path, tables, "1" * 64).read_bytes()
    raised = 0
    for data in mutations(content, 400, seed=0):
        (tmp_path / TABLES).write_bytes(data)
        try:
            read = read_tables(tmp_path, "1" * 64)
        except CodecError as error:
            raised += TABLES in str(error)
        else:
            assert read is not None
            assert read.sha256 == tables.sha256  # white space or an equal value
    assert raised > 350  # each names the file


# training and the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    training = {"steps": 14, "validate_every": 7, "code_tables_minutes": 0.4}
    loop.train(load_recipe(write_recipe(folder / "tiny.yaml", training=training)), folder / "run")
    return folder / "run"


def test_training_stores_tables_with_both_codecs(run: Path) -> None:
    for name in ("codec", "best"):
        codec = codecvq.load(run / name)
        tables = codec.code_tables()
        assert tables is not None
        samples = torch.from_numpy(open_corpus("prompts").split("test")[0].read(16000))
        codes = codec.encode(samples[None, None])[0]
        assert unpack(pack(codec, codes, len(samples)), codec).kind == "learned"


def test_a_complete_run_keeps_its_tables(run: Path) -> None:
    before = {name: (run / name / TABLES).stat().st_mtime_ns for name in ("codec", "best")}
    again = loop.train(load_recipe(run / "recipe.yaml"), run)
    assert again.tables is None
    assert {name: (run / name / TABLES).stat().st_mtime_ns for name in before} == before


def test_a_failure_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "store_code_tables", fail)
    recipe = write_recipe(tmp_path / "tiny.yaml", training={"steps": 1, "validation_clips": 0})
    done = loop.train(load_recipe(recipe), tmp_path / "run")
    assert done.tables is None
    assert "no code tables were learned" in caplog.text
    assert "codecvq tables" in caplog.text
    assert codecvq.load(tmp_path / "run").code_tables() is None


def test_zero_minutes_learn_nothing(tmp_path: Path) -> None:
    training = {"steps": 1, "validation_clips": 0, "code_tables_minutes": 0}
    recipe = load_recipe(write_recipe(tmp_path / "tiny.yaml", training=training))
    loop.train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "codec" / TABLES).exists()


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as leaving:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(leaving.value.code or 0), captured.out, captured.err


def test_the_command_stores_tables_in_a_run_or_codec_folder(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "codec" / TABLES).unlink()
    code, out, error = call(capsys, "tables", run, "--minutes", 1, "--json")
    assert code == 0, error
    result = json.loads(out)
    tables = codecvq.load(run).code_tables()
    assert tables is not None
    assert result["sha256"] == tables.sha256
    assert result["table_bits"] < result["order_0_bits"] < result["packed_bits"]
    (run / "best" / TABLES).unlink()
    code, out, error = call(capsys, "tables", run / "best", "prompts", "--minutes", 1)
    assert code == 0, error
    assert str(run / "best" / TABLES) in out


@pytest.mark.parametrize(
    ("codec", "data", "error"),
    [
        ("speech-16k", ["prompts"], "speech-16k is not the folder of a codec"),
        ("plain", [], "is not in a run folder, which would name its corpus"),
    ],
    ids=["a registered name", "no data"],
)
def test_the_command_says_what_it_needs(
    tmp_path: Path, codec: str, data: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    new_codec().save(tmp_path / "plain")
    path = tmp_path / "plain" if codec == "plain" else codec
    code, _, shown = call(capsys, "tables", path, *data)
    assert code == 2
    assert error in shown
    assert not (tmp_path / "plain" / TABLES).exists()
    assert (tmp_path / "plain" / CONFIG).is_file()
