"""Token datasets of codebooks with strides: one code per block in files, `[N, T]` in memory."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from forged_shards import column, forge
from small_codecs import HOP, RATE, LevelCodec
from test_tokens import encode_alone, tone

from codecvq.audio import read_audio, write_audio
from codecvq.data.corpus import Clip
from codecvq.errors import TokensError
from codecvq.tokens import check, detokenize, read_card, read_tokens, tokenize
from codecvq.tokens.rows import MAX_CODES

SHARD = "data/train-00000-of-00001.parquet"
LENGTHS = [1, HOP - 1, 2 * HOP, 3 * HOP, 3 * HOP + 1, 7 * HOP, 12 * HOP - 5]


BlockCodec = functools.partial(LevelCodec, strides=(3, 1))  # the first codebook has one code per three frames


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory):
    """The clips, and the folder of their dataset."""
    folder = tmp_path_factory.mktemp("tokenized")
    clips = []
    for i, length in enumerate(LENGTHS):
        path = folder / "audio" / f"{i}.wav"
        write_audio(path, tone(length, i), RATE)
        clips.append(Clip(id=f"clip{i}", path=path, duration_s=length / RATE))
    tokenize(BlockCodec(), clips, folder / "t", batch_seconds=0.1)
    return clips, folder / "t"


@pytest.fixture
def dataset(tokenized, tmp_path):
    """A copy of the dataset for modification."""
    shutil.copytree(tokenized[1], tmp_path / "t")
    return tmp_path / "t"


def test_files_contain_one_code_per_block(tokenized):
    clips, folder = tokenized
    stored = column(folder / SHARD, "codes")
    for length, (coarse, fine), clip in zip(LENGTHS, stored, clips, strict=True):
        frames = -(-length // HOP)
        assert (len(coarse), len(fine)) == (-(-frames // 3), frames)
        codes = encode_alone(BlockCodec(), clip)
        assert coarse == codes[0, ::3].tolist()
        assert fine == codes[1].tolist()


def test_rows_equal_the_codes_of_each_clip(tokenized):
    clips, folder = tokenized
    dataset = read_tokens(folder)
    for clip, row in zip(clips, dataset, strict=True):
        assert row.codes.dtype == np.uint16
        assert np.array_equal(row.codes, encode_alone(BlockCodec(), clip))
        assert np.array_equal(dataset[clip.id].codes, row.codes)
        assert row.num_frames == row.codes.shape[1]
    assert check(folder).problems == ()


def test_bitrates_count_one_code_per_block(tokenized):
    folder = tokenized[1]
    stats = json.loads((folder / "stats.json").read_text())
    frames = [-(-length // HOP) for length in LENGTHS]
    coarse = [-(-count // 3) for count in frames]
    assert stats["frames"] == sum(frames)
    assert stats["tokens"] == sum(frames) + sum(coarse)
    assert stats["nominal_bps"] == pytest.approx(100 * 8 / 3 + 100 * 8)
    assert sum(stats["codebooks"][0]["histogram"]) == sum(coarse)
    entropies = [codebook["entropy_bits"] for codebook in stats["codebooks"]]
    assert stats["entropy_bps"] == pytest.approx(100 / 3 * entropies[0] + 100 * entropies[1])
    assert "the block lengths are 3, 1" in (folder / "README.md").read_text()


def test_the_card_contains_strides_only_if_a_stride_is_above_1(tokenized, tmp_path):
    clips, folder = tokenized
    assert read_card(folder).frames_per_code == (3, 1)
    fields = json.loads((folder / "codec.json").read_text())
    assert (fields["format"], fields["strides"]) == ("codecvq.tokens/2", [3, 1])
    tokenize(LevelCodec(), clips, tmp_path / "plain")
    fields = json.loads((tmp_path / "plain" / "codec.json").read_text())
    assert fields["format"] == "codecvq.tokens/1"
    assert "strides" not in fields
    assert read_card(tmp_path / "plain").frames_per_code == (1, 1)


def test_a_smaller_depth_keeps_the_strides(tokenized, tmp_path):
    clips, _ = tokenized
    tokenize(BlockCodec(), clips, tmp_path / "t", num_codebooks=1)
    assert read_card(tmp_path / "t").strides == (3,)
    for clip, row in zip(clips, read_tokens(tmp_path / "t"), strict=True):
        assert np.array_equal(row.codes, encode_alone(BlockCodec(), clip)[:1])


def test_detokenize_writes_clips_of_the_original_length(tokenized, tmp_path):
    clips, folder = tokenized
    decoded = detokenize(BlockCodec(), folder, tmp_path / "wavs", suffix=".wav")
    assert not decoded.failures
    for clip, length in zip(clips, LENGTHS, strict=True):
        wav = read_audio(tmp_path / "wavs" / f"{clip.id}.wav").samples
        codes = torch.from_numpy(encode_alone(BlockCodec(), clip))[None]
        expected = BlockCodec().decode(codes, num_samples=length)[0, 0].numpy()
        assert wav.shape[-1] == length
        assert np.allclose(wav.reshape(-1), expected, atol=1e-4)


def test_a_codec_with_other_strides_raises(tokenized, tmp_path):
    with pytest.raises(TokensError, match="has strides of 1 x 3"):
        detokenize(LevelCodec(), tokenized[1], tmp_path)


def test_codes_that_change_within_a_block_are_failures(tokenized, tmp_path):
    class FaultyCodec(LevelCodec):
        strides = (3, 1)

        def encode(self, wav, **keywords):
            codes = super().encode(wav, **keywords)
            codes[:, 0, 1:2] = (codes[:, 0, 1:2] + 1) % 256
            return codes

    summary = tokenize(FaultyCodec(), tokenized[0], tmp_path / "t", batch_seconds=0.001)
    assert {failure.id for failure in summary.failures} == {f"clip{i}" for i in range(2, len(LENGTHS))}
    assert all("codebook 0 that change in a block at frame 1" in one.error for one in summary.failures)


def test_a_codec_with_variable_depth_raises(tokenized, tmp_path):
    class Variable(LevelCodec):
        variable_depth = True

    with pytest.raises(
        TokensError, match=r"'level' has a variable number of codes per frame.*Write \.cvq files"
    ):
        tokenize(Variable(), tokenized[0], tmp_path / "t")
    assert not (tmp_path / "t").exists()


def damaged_codes(path: Path, change) -> pa.Array:
    codes = column(path, "codes")
    return pa.array([*codes[:5], change(codes[5]), *codes[6:]], type=pa.list_(pa.list_(pa.uint16())))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [c[0][:-1], c[1]], "codebooks of 2, 7 codes, but num_frames is 7"),
        (lambda c: [[*c[0], 1], c[1]], "codebooks of 4, 7 codes"),
        (lambda c: [c[1], c[1]], "codebooks of 7, 7 codes"),
        (lambda c: c[:1], "has 1 codebooks, not 2"),
        (lambda c: [*c, c[1]], "has 3 codebooks, not 2"),
        (lambda c: [[256, *c[0][1:]], c[1]], "outside its codebook"),
    ],
)
def test_a_damaged_row_is_reported(dataset, change, message):
    forge(dataset / SHARD, {"codes": damaged_codes(dataset / SHARD, change)})
    problems = check(dataset).problems
    assert len(problems) == 1
    assert "clip 'clip5'" in problems[0]
    assert message in problems[0]


def test_large_strides_are_rejected_before_codes_are_repeated(dataset):
    """A stride of 2^30 would repeat one code a billion times."""
    card = json.loads((dataset / "codec.json").read_text()) | {"strides": [2**30, 2**30]}
    frames = MAX_CODES
    one = pa.array([[[0], [0]]] * len(LENGTHS), type=pa.list_(pa.list_(pa.uint16())))
    (dataset / "codec.json").write_text(json.dumps(card))
    forge(
        dataset / SHARD,
        {"codes": one, "num_frames": [frames] * len(LENGTHS), "num_samples": [frames * HOP] * len(LENGTHS)},
        metadata={b"codecvq.codec": json.dumps(card).encode()},
    )
    problems = check(dataset).problems
    assert f"a row group of {2 * frames * len(LENGTHS):,} codes, including repeated codes" in problems[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": [3]}, "1 strides for 2 codebook_sizes"),
        ({"strides": [0, 1]}, "strides"),
        ({"strides": [1, 1]}, "all strides are 1"),
        ({"strides": None}, "format is 'codecvq.tokens/2'"),
        ({"format": "codecvq.tokens/1"}, "format is 'codecvq.tokens/1'"),
    ],
    ids=str,
)
def test_inconsistent_cards_raise(dataset, change, message):
    card = json.loads((dataset / "codec.json").read_text()) | change
    (dataset / "codec.json").write_text(json.dumps(card))
    with pytest.raises(TokensError, match=message):
        read_card(dataset)
