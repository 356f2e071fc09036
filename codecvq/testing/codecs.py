"""Selects and defines the checks of a codec: the guarantees of `AudioCodec`.

The first line of each docstring states the guarantee.
"""

from __future__ import annotations

import functools
import io
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from codecvq.errors import NonFiniteError, ShapeError, StreamingError
from codecvq.testing.check import Check, about, expect, expect_close, expect_equal, expect_error, summary_of
from codecvq.testing.source import PluginSource

if TYPE_CHECKING:
    from codecvq.api.codec import AudioCodec

FRAMES = 5  # length of test audio
TOLERANCE = 1e-4  # relative; rounding may depend on the shape of the batch
HASH_DIGITS = 64
OTHER_RATES = (2, 1), (1, 2)  # relative to the codec's sample rate


@dataclass(frozen=True)
class CodecCase:
    """A codec under test; makes audio for it."""

    codec: Any  # an AudioCodec; Any: optional attributes beyond the protocol are looked up

    def wav(self, samples: int, batch: int = 1, seed: int = 1) -> Tensor:
        """A harmonic tone with some noise at speech level: `[B, C, samples]`."""
        generator = torch.Generator().manual_seed(seed)
        time = torch.arange(samples) / self.codec.sample_rate
        pitches = 90.0 + 40.0 * torch.arange(batch)[:, None, None]
        tones = [(2 * math.pi * n * pitches * time).sin() / n for n in range(1, 6)]
        noise = torch.randn(batch, self.codec.channels, samples, generator=generator)
        return 0.1 * torch.stack(tones).sum(dim=0) + 0.01 * noise

    def batch(self) -> tuple[Tensor, Tensor]:
        """Three items of different lengths with noise in their padding, and their lengths `[B]`."""
        hop = self.codec.hop_length
        lengths = torch.tensor([FRAMES * hop, 2 * hop + hop // 2, 3 * hop])
        wav = self.wav(FRAMES * hop, len(lengths))
        real = torch.arange(wav.shape[2]) < lengths[:, None, None]
        return torch.where(real, wav, self.wav(wav.shape[2], len(lengths), seed=2).flip(0)), lengths


def codec_checks(codec: AudioCodec | str | Path) -> Iterator[Check]:
    """Yield every check of a codec, given as an object or as a name or folder for `codecvq.load`.

    Raises CodecError if there is no such codec, or if it is external (`CodecSpec.external`): it has no codes.
    """
    if isinstance(codec, (str, Path)):
        from codecvq.codec import load

        codec = load(codec)
    case = CodecCase(codec)
    name = getattr(codec, "name", None)
    name = name if isinstance(name, str) and name else type(codec).__name__
    source = PluginSource(type(codec))
    first: tuple[Check, ...] = ()
    for test in _tests_for(codec):
        methods = getattr(test, "methods", ("encode", "encode_frames"))
        label = getattr(test, "__name__", "")
        check = Check(
            f"{name}/{label}", summary_of(test), functools.partial(test, case), first, source, methods
        )
        first = (*first, check) if test in (attributes, shapes) else first
        yield check


def _tests_for(codec: Any) -> list[Callable[[CodecCase], str | None]]:  # Any: as in CodecCase
    optional: dict[Callable[[CodecCase], str | None], bool] = {
        prefix: bool(getattr(codec, "prefix_decodable", False)),
        token_dataset: codec_is_mono(codec) and not getattr(codec, "variable_depth", False),
        latents: hasattr(codec, "encode_latents") or hasattr(codec, "decode_latents"),
        save_load: hasattr(codec, "save"),
    }
    return [*TESTS, *(test for test, applies in optional.items() if applies)]


def codec_is_mono(codec: Any) -> bool:  # Any: as in CodecCase
    """Whether the codec has one channel, as clips have."""
    return bool(getattr(codec, "channels", 0) == 1)


@about("__init__")
def attributes(case: CodecCase) -> str:
    """Sample rate, frame rate, codebooks, bit rate and identity are reported and consistent."""
    codec = case.codec
    for what in ("sample_rate", "channels", "hop_length", "num_codebooks"):
        value = getattr(codec, what)
        expect(type(value) is int and value >= 1, f"{what} is {value!r}, not an integer of at least 1")
    expect(
        bool(codec.name) and isinstance(codec.name, str), f"name is {codec.name!r}, not a non-empty string"
    )
    rate = Fraction(codec.sample_rate, codec.hop_length)
    expect(
        isinstance(codec.frame_rate, Fraction) and codec.frame_rate == rate,
        f"frame_rate is {codec.frame_rate!r}, not sample_rate / hop_length = {rate!r}",
    )
    sizes, strides = tuple(codec.codebook_sizes), tuple(codec.strides)
    expect(
        len(sizes) == codec.num_codebooks, f"num_codebooks is {codec.num_codebooks}, codebook_sizes {sizes}"
    )
    expect(
        len(strides) == len(sizes) and all(type(s) is int and s >= 1 for s in strides),
        f"strides are {strides}; each of the {len(sizes)} codebooks needs an integer of at least 1",
    )
    bits = float(rate) * sum(math.log2(k) / s for k, s in zip(sizes, strides, strict=True))
    expect(
        math.isclose(codec.bitrate, bits),
        f"bitrate is {codec.bitrate}, not frame rate · Σ log2 K / stride = {bits}",
    )
    for what in ("weights_sha256", "codebooks_sha256"):
        digest = getattr(codec, what)
        expect(
            isinstance(digest, str) and len(digest) == HASH_DIGITS and set(digest) <= set("0123456789abcdef"),
            f"{what} is {digest!r}, not {HASH_DIGITS} hexadecimal digits",
        )
        expect(getattr(codec, what) == digest, f"{what} changes between two reads")
    expect(codec.matches_codebooks(codec.codebooks_sha256), "matches_codebooks rejects codebooks_sha256")
    expect(codec.matches_weights(codec.weights_sha256), "matches_weights rejects weights_sha256")
    expect(not codec.matches_codebooks("0" * HASH_DIGITS), "matches_codebooks accepts any hash")
    return f"has {codec.bitrate:.0f} bit/s, {float(rate):g} frames/s, codebooks {sizes}"


def shapes(case: CodecCase) -> None:
    """T = ceil(S / hop) for audio of any length, including 0; codes are [B, N, T] int64 and in range."""
    codec, hop = case.codec, case.codec.hop_length
    for samples in (3 * hop, 0, 1, hop - 1, hop, hop + 1, 3 * hop + 7):
        for batch in (1, 2):
            codes = codec.encode(case.wav(samples, batch))
            _expect_codes(codec, codes, batch, -(-samples // hop), f"codes of {samples} samples")


@about("decode", "decode_frames")
def decode_length(case: CodecCase) -> None:
    """Decoded audio is finite float32 and has exactly `num_samples` samples, by default T · hop."""
    codec, hop = case.codec, case.codec.hop_length
    for samples in (0, 1, hop, 2 * hop + 3):
        codes = codec.encode(case.wav(samples))
        for num_samples in (None, samples):
            wav = codec.decode(codes, num_samples=num_samples)
            length = codes.shape[2] * hop if num_samples is None else num_samples
            what = f"audio of {codes.shape[2]} frames, num_samples={num_samples}"
            needed = (1, codec.channels, length)
            expect(tuple(wav.shape) == needed, f"{what}: {list(wav.shape)}, not {list(needed)}")
            expect(wav.dtype == torch.float32 and bool(wav.isfinite().all()), f"{what} is not finite float32")
    codes = codec.encode(case.wav(2 * hop))
    expect_equal(
        codec.decode(codes, num_samples=hop + 1),
        codec.decode(codes)[:, :, : hop + 1],
        "decoding of the same codes with a smaller num_samples",
    )
    expect_error(
        ShapeError, lambda: codec.decode(codes, num_samples=2 * hop + 1), "num_samples beyond the last frame"
    )


@about("decode", "encode", "decode_frames", "encode_frames")
def deterministic(case: CodecCase) -> None:
    """The same audio gives the same codes and samples bit for bit, and no random numbers are drawn."""
    codec = case.codec
    wav = case.wav(FRAMES * codec.hop_length + 1, 2)
    original, random, state = wav.clone(), torch.get_rng_state(), np.random.get_state(legacy=False)
    codes = codec.encode(wav)
    decoded = codec.decode(codes)
    expect(
        torch.equal(torch.get_rng_state(), random) and str(np.random.get_state(legacy=False)) == str(state),
        "encode or decode draws from a global random generator",
    )
    torch.default_generator.manual_seed(1)
    expect_equal(codec.encode(wav), codes, "second encoding of the same audio")
    expect_equal(codec.decode(codes), decoded, "second decoding of the same codes")
    expect_equal(wav, original, "the input audio, after encode")


def padding(case: CodecCase) -> None:
    """The contents of padding change no code; at padding, codes are 0 and decoded audio is silent."""
    codec, (wav, lengths) = case.codec, case.batch()
    codes = codec.encode(wav, lengths=lengths)
    real = torch.arange(wav.shape[2]) < lengths[:, None, None]
    expect_equal(
        codec.encode(torch.where(real, wav, 0.0), lengths=lengths), codes, "codes with silence as padding"
    )
    frames = -(-lengths // codec.hop_length)
    padded = torch.arange(codes.shape[2]) >= frames[:, None, None]
    expect(not bool(codes[padded.expand_as(codes)].any()), "codes at padded frames are not 0")
    decoded = codec.decode(codes, lengths=lengths)
    expect(not bool(decoded[(~real).expand_as(decoded)].any()), "decoded audio after an item's end is not 0")


def items_are_independent(case: CodecCase) -> None:
    """A batch item gets the same codes and audio as alone, for any contents of the other items."""
    codec, (wav, lengths) = case.codec, case.batch()
    codes = codec.encode(wav, lengths=lengths)
    decoded = codec.decode(codes, lengths=lengths)
    for b, length in enumerate(lengths.tolist()):
        alone = codec.encode(wav[b : b + 1, :, :length])
        expect_equal(codes[b : b + 1, :, : alone.shape[2]], alone, f"codes of item {b} in a batch, and alone")
        sound = codec.decode(alone, num_samples=length)
        expect_close(
            decoded[b : b + 1, :, :length], sound, f"audio of item {b} in a batch, and alone", TOLERANCE
        )


def wrong_input(case: CodecCase) -> None:
    """Audio or codes of the wrong shape, dtype or range raise ShapeError, NaN in audio NonFiniteError."""
    codec = case.codec
    wav = case.wav(2 * codec.hop_length)
    codes = codec.encode(wav)
    for what, wrong in {
        "audio [S]": wav[0, 0],
        "audio [C, S]": wav[0],
        "integer audio": wav.long(),
    }.items():
        expect_error(ShapeError, functools.partial(codec.encode, wrong), what)
    bad = wav.clone()
    bad[0, 0, 3] = math.nan
    expect_error(NonFiniteError, functools.partial(codec.encode, bad), "encode of NaN")
    long = torch.tensor([wav.shape[2] + 1])
    expect_error(ShapeError, lambda: codec.encode(wav, lengths=long), "a length beyond the audio")
    high = codes.clone()
    high[:, -1] = codec.codebook_sizes[-1]
    for what, wrong in {
        "float codes": codes.float(),
        "codes [N, T]": codes[0],
        "one codebook too many": torch.cat([codes, codes[:, :1]], dim=1),
        "a code that is K": high,
    }.items():
        expect_error(ShapeError, functools.partial(codec.decode, wrong), what)


def other_sample_rate(case: CodecCase) -> None:
    """Audio at another sample rate is resampled: the number of frames is the same within one."""
    codec = case.codec
    frames = 8
    for up, down in OTHER_RATES:
        rate = codec.sample_rate * up // down
        samples = frames * codec.hop_length * up // down
        codes = codec.encode(case.wav(samples), sample_rate=rate)
        expect(
            abs(codes.shape[2] - frames) <= 1,
            f"{samples} samples at {rate} Hz have {codes.shape[2]} frames; {frames} are needed",
        )


@about("decode", "decode_frames")
def prefix(case: CodecCase) -> None:
    """With num_codebooks=n, encode returns the first n of all N codes, and decode accepts them."""
    codec = case.codec
    wav = case.wav(3 * codec.hop_length)
    codes = codec.encode(wav)
    for n in range(1, codec.num_codebooks + 1):
        first = codec.encode(wav, num_codebooks=n)
        expect_equal(first, codes[:, :n], f"codes with num_codebooks={n}")
        decoded = codec.decode(first)
        expect(
            decoded.shape == wav.shape,
            f"audio of {n} codebooks: {list(decoded.shape)}, not {list(wav.shape)}",
        )
        expect(bool(decoded.isfinite().all()), f"audio of {n} codebooks is non-finite")


@about("stream_encoder", "stream_decoder", "encoder_reach", "decoder_reach")
def streams(case: CodecCase) -> str | None:
    """Processed block by block, a recording gets the codes and samples of the whole."""
    codec, hop = case.codec, case.codec.hop_length
    frames = 4 * FRAMES + max(codec.strides)
    wav = case.wav(frames * hop - 3, 2)
    codes = codec.encode(wav)
    reasons = []
    try:
        encoder = codec.stream_encoder(2)
    except StreamingError as error:
        reasons.append(str(error))
    else:
        parts = [
            encoder.push(block) for block in wav.split([hop // 2 + 1, 1, wav.shape[2] - hop // 2 - 2], 2)
        ]
        expect_equal(torch.cat([*parts, encoder.flush()], dim=2), codes, "codes in blocks, and of the whole")
    try:
        decoder = codec.stream_decoder(2)
    except StreamingError as error:
        reasons.append(str(error))
    else:
        block = max(codec.strides)
        parts = [decoder.push(part) for part in codes.split([block, codes.shape[2] - block], dim=2)]
        got = torch.cat([*parts, decoder.flush()], dim=2)
        expect_close(got, codec.decode(codes), "audio in blocks, and of the whole", TOLERANCE)
    return "; ".join(dict.fromkeys(reasons)) or None


def cvq_file(case: CodecCase) -> str:
    """Writing and reading a .cvq file returns the same codes, in each entropy coding mode and in chunks."""
    from codecvq.bitstream import CvqReader, CvqWriter, pack, unpack

    codec = case.codec
    samples = FRAMES * codec.hop_length - 1
    codes = codec.encode(case.wav(samples))
    sizes: dict[str, int] = {}
    for entropy in (True, False, "auto"):
        data = pack(codec, codes[0], samples, entropy=entropy)
        packet = unpack(data, codec)
        unpacked = torch.from_numpy(np.asarray(packet.codes).astype(np.int64))
        expect_equal(unpacked, codes[0].cpu(), f"codes of the .cvq file, entropy={entropy}")
        expect(
            packet.num_samples == samples, f"the .cvq file has {packet.num_samples} samples, not {samples}"
        )
        sizes[packet.kind] = len(data)
    stream = io.BytesIO()
    with CvqWriter(stream, codec, chunk_s=2 * codec.hop_length / codec.sample_rate) as writer:
        writer.write(codes[0])
    stream.seek(0)
    chunks = [torch.from_numpy(chunk.codes[0]) for chunk in CvqReader(stream, codec)]
    expect_equal(torch.cat(chunks, dim=1), codes[0].cpu(), "codes of the chunks of a .cvq file")
    shown = ", ".join(f"{size} bytes {kind}" for kind, size in sizes.items())
    return f"writes {shown} for {codes.shape[2]} frames"


def token_dataset(case: CodecCase) -> None:
    """Writing and reading a token dataset returns the same codes."""
    from codecvq.audio import write_audio
    from codecvq.data.clip import Clip
    from codecvq.tokens import read_tokens, tokenize

    codec = case.codec
    with tempfile.TemporaryDirectory() as folder:
        clips = []
        for n, samples in enumerate((FRAMES * codec.hop_length, 2 * codec.hop_length + 1)):
            path = Path(folder) / f"{n}.wav"
            write_audio(path, case.wav(samples, seed=n)[0, 0].numpy(), codec.sample_rate)
            clips.append(Clip(id=str(n), path=path))
        summary = tokenize(codec, clips, Path(folder) / "tokens")
        expect(not summary.failures, f"clips that failed: {', '.join(map(str, summary.failures))}")
        rows = {row.id: row for row in read_tokens(Path(folder) / "tokens")}
        for clip in clips:
            samples = clip.read(codec.sample_rate)
            codes = codec.encode(torch.from_numpy(samples)[None, None])
            stored = torch.from_numpy(rows[clip.id].codes.astype(np.int64))
            expect_equal(stored, codes[0].cpu(), f"codes of clip {clip.id} in the dataset, and of encode")
            expect(rows[clip.id].num_samples == len(samples), f"num_samples of clip {clip.id}")


@about("encode_latents", "decode_latents")
def latents(case: CodecCase) -> None:
    """Latents [B, D, T] have one vector per frame and decode to audio of the right length."""
    codec = case.codec
    wav, lengths = case.batch()
    encoded = codec.encode_latents(wav, lengths=lengths)
    frames = -(-wav.shape[2] // codec.hop_length)
    needed = (len(wav), codec.latent_dim, frames)
    expect(tuple(encoded.shape) == needed, f"latents are {list(encoded.shape)}, not {list(needed)}")
    expect(not encoded.requires_grad, "latents of encode_latents carry a gradient")
    for b, length in enumerate(lengths.tolist()):
        alone = codec.encode_latents(wav[b : b + 1, :, :length])
        expect_close(
            encoded[b : b + 1, :, : alone.shape[2]],
            alone,
            f"latents of item {b} in a batch, and alone",
            TOLERANCE,
        )
    decoded = codec.decode_latents(encoded, lengths=lengths)
    expect(decoded.shape == wav.shape, f"audio of latents: {list(decoded.shape)}, not {list(wav.shape)}")
    expect(bool(decoded.isfinite().all()), "audio of latents is non-finite")


@about("save")
def save_load(case: CodecCase) -> None:
    """Saved to a folder and loaded with codecvq.load: same identity, codes and samples."""
    from codecvq.codec import load

    codec = case.codec
    wav = case.wav(FRAMES * codec.hop_length)
    codes = codec.encode(wav)
    with tempfile.TemporaryDirectory() as folder:
        codec.save(Path(folder) / "codec")
        loaded = load(Path(folder) / "codec")
    for what in ("name", "sample_rate", "codebook_sizes", "weights_sha256", "codebooks_sha256"):
        got, needed = getattr(loaded, what), getattr(codec, what)
        expect(got == needed, f"{what} is {got!r} after loading, not {needed!r}")
    expect_equal(loaded.encode(wav), codes.cpu(), "codes after loading")
    expect_equal(loaded.decode(codes), codec.decode(codes).cpu(), "audio after loading")


TESTS: tuple[Callable[[CodecCase], str | None], ...] = (
    attributes,
    shapes,
    decode_length,
    deterministic,
    padding,
    items_are_independent,
    wrong_input,
    other_sample_rate,
    streams,
    cvq_file,
)


def _expect_codes(
    codec: Any, codes: Tensor, batch: int, frames: int, what: str
) -> None:  # Any: as in CodecCase
    needed = (batch, codec.num_codebooks, frames)
    expect(tuple(codes.shape) == needed, f"{what}: {list(codes.shape)}, not {list(needed)}")
    expect(codes.dtype == torch.int64, f"{what}: {codes.dtype}, not int64")
    least = -1 if getattr(codec, "variable_depth", False) else 0
    for n, (size, stride) in enumerate(zip(codec.codebook_sizes, codec.strides, strict=True)):
        part = codes[:, n]
        if not part.numel():
            continue
        low, high = int(part.min()), int(part.max())
        expect(low >= least and high < size, f"{what}: codebook {n} spans {low} … {high}; K is {size}")
        blocks = part[:, ::stride].repeat_interleave(stride, dim=1)[:, :frames]
        expect_equal(part, blocks, f"{what}: codebook {n} within blocks of {stride} frames")
