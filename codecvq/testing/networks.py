"""Selects and defines the checks of a network, that is, of a matching encoder and decoder.

The first line of each docstring states the guarantee.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from codecvq.api.hookspecs import DiscriminatorSpec
from codecvq.api.reach import Reach
from codecvq.errors import CodecvqError, OptionError, StreamingError
from codecvq.networks.build import build_network
from codecvq.networks.interface import AudioWithLosses, Network
from codecvq.plugins import registry
from codecvq.streaming import StreamingModule
from codecvq.streaming.state import flatten, join, map_tensors
from codecvq.testing import imports
from codecvq.testing.case import expect_same_state
from codecvq.testing.check import Check, about, expect, expect_close, expect_equal, summary_of
from codecvq.testing.source import PluginSource

SAMPLE_RATE = 16_000
FRAMES = 6
LENGTHS = (6, 2, 4)  # valid frames of each item of a padded batch
MAX_TESTED_FRAMES = 400  # frames of context; a longer reach is not tested
TOLERANCE = 1e-4  # relative; rounding may depend on the shape of the batch


@dataclass(frozen=True)
class NetworkCase:
    """A network under test with its options; builds it and makes input for it."""

    name: str
    options: Mapping[str, Any]  # Any: the plugin defines the types of its options

    @property
    def channels(self) -> int:
        """Number of audio channels C."""
        return int(self.options.get("channels", 1))

    def build(self, seed: int = 0) -> Network:
        """Build a new network in eval mode, with weights drawn from `seed`."""
        torch.default_generator.manual_seed(seed)
        network = build_network(self.name, **self.options)
        network.encoder.eval()
        network.decoder.eval()
        return network

    def wav(self, network: Network, batch: int = len(LENGTHS), frames: int = FRAMES, seed: int = 1) -> Tensor:
        """Noise at speech level: `[B, C, frames * hop]`."""
        generator = torch.Generator().manual_seed(seed)
        return 0.1 * torch.randn(batch, self.channels, frames * network.hop_length, generator=generator)


def network_checks(name: str, *, sample_rate: int = SAMPLE_RATE, **options: Any) -> Iterator[Check]:
    """Yield every check of the registered network `name`, built with these options.

    Raises UnknownName for an unknown name, and OptionError for a discriminator or for options that the
    network rejects.
    """
    registration = registry().find("networks", name)
    if isinstance(registration.spec, DiscriminatorSpec):
        raise OptionError(f"network {name!r} is a discriminator. Only encoders and decoders have checks.")
    case = NetworkCase(name, {"sample_rate": sample_rate, **options})
    try:
        with torch.random.fork_rng(devices=[]):
            network = case.build()
    except CodecvqError as error:
        if isinstance(error.__cause__, (TypeError, type(None))):  # the user's options are wrong
            raise
        yield _check(builds, case, (), PluginSource(registration.load()))
        return
    source = PluginSource(*_classes_of(network), registration.load())
    first: tuple[Check, ...] = ()
    for test in TESTS:
        check = _check(test, case, first, source)
        first = (*first, check) if test in (builds, shapes) else first
        yield check
    if registration.origin.entry_point:
        module = functools.partial(imports.imports_no_torch, getattr(registration.module, "__name__", ""))
        yield Check(f"{name}/imports_no_torch", summary_of(imports.imports_no_torch), module)


def builds(case: NetworkCase) -> str:
    """It can be built and reports its latent dimension, hop length, and the reach of encoder and decoder."""
    network = case.build()
    for what, number in {"dim": network.dim, "hop_length": network.hop_length}.items():
        expect(type(number) is int and number >= 1, f"{what} is {number!r}, not an integer of at least 1")
    reaches = {"encoder": network.encoder_reach, "decoder": network.decoder_reach}
    for what, reach in reaches.items():
        expect(reach is None or isinstance(reach, Reach), f"reach of the {what} is {reach!r}, not a Reach")
    return ", ".join(f"{what} {reach or 'without reach'}" for what, reach in reaches.items())


def shapes(case: NetworkCase) -> None:
    """Audio [B, C, T·H] becomes latents [B, D, T] and audio again, float32 and finite, for T ≥ 1."""
    network = case.build()
    for batch, frames in ((2, FRAMES), (1, 1), (3, 2)):
        wav = case.wav(network, batch, frames)
        latents = network.encoder(wav, None)
        _expect_tensor(latents, (batch, network.dim, frames), f"latents of audio {list(wav.shape)}")
        decoded = network.decoder(latents, None)
        _expect_tensor(decoded, tuple(wav.shape), f"audio of latents {list(latents.shape)}")


@torch.no_grad()
def padding(case: NetworkCase) -> None:
    """With a mask, the contents of padding do not affect valid frames, in encoder and decoder."""
    network, mask = case.build(), _mask()
    wav = case.wav(network)
    real = mask[:, None].repeat_interleave(network.hop_length, dim=2)  # [B, 1, T·H]
    silent = torch.where(real, wav, 0.0)
    latents = network.encoder(silent, mask)
    wider = network.encoder(
        nn.functional.pad(silent, (0, 3 * network.hop_length)), nn.functional.pad(mask, (0, 3))
    )
    _expect_close_where(wider[:, :, :FRAMES], latents, mask[:, None], "latents with more silence after them")
    decoded = network.decoder(torch.where(mask[:, None], latents, 0.0), mask)
    for fill in (1.0, -30.0):
        other = network.decoder(torch.where(mask[:, None], latents, fill), mask)
        _expect_close_where(other, decoded, real, f"audio with latents of {fill:g} at padding")


@torch.no_grad()
def items_are_independent(case: NetworkCase) -> None:
    """A batch item gets the same latents and audio as alone, for any contents of the other items."""
    network, mask = case.build(), _mask()
    wav = case.wav(network)
    wav = torch.where(mask[:, None].repeat_interleave(network.hop_length, dim=2), wav, 0.0)
    latents = network.encoder(wav, mask)
    decoded = network.decoder(latents, mask)
    for b, length in enumerate(LENGTHS):
        samples = length * network.hop_length
        alone = network.encoder(wav[b : b + 1, :, :samples], None)
        expect_close(
            latents[b : b + 1, :, :length], alone, f"latents of item {b} in a batch, and alone", TOLERANCE
        )
        sound = network.decoder(alone, None)
        expect_close(
            decoded[b : b + 1, :, :samples], sound, f"audio of item {b} in a batch, and alone", TOLERANCE
        )


@about("reach", "forward", "__init__")
@torch.no_grad()
def encoder_reach(case: NetworkCase) -> str | None:
    """Samples beyond the encoder's declared `reach` change no latents."""
    network = case.build()
    reach = network.encoder_reach
    if reach is None:
        return "the encoder declares no reach, so it cannot stream"
    hop = network.hop_length
    past, future = (_frames_of(samples, hop) for samples in (reach.past, reach.future))
    if max(past or 0, future or 0) > MAX_TESTED_FRAMES:
        return f"{reach} is longer than {MAX_TESTED_FRAMES} frames and was not tested"
    wav = case.wav(network, 1, (past or 0) + (future or 0) + 3)
    latents = network.encoder(wav, None)
    frame = (past or 0) + 1
    end = (frame + 1) * hop + reach.future
    _expect_unaffected(network.encoder, wav, latents, frame, slice(end, None), f"samples from {end} on")
    if reach.past is not None:
        start = frame * hop - reach.past
        _expect_unaffected(network.encoder, wav, latents, frame, slice(0, start), f"samples before {start}")
    return None


@about("reach", "forward", "__init__")
@torch.no_grad()
def decoder_reach(case: NetworkCase) -> str | None:
    """Frames beyond the decoder's declared `reach` change no samples."""
    network = case.build()
    reach = network.decoder_reach
    if reach is None:
        return "the decoder declares no reach, so it cannot stream"
    if max(reach.past or 0, reach.future) > MAX_TESTED_FRAMES:
        return f"{reach} is longer than {MAX_TESTED_FRAMES} frames and was not tested"
    frames = (reach.past or 0) + reach.future + 3
    latents = network.encoder(case.wav(network, 1, frames), None)
    decoded = network.decoder(latents, None).unflatten(2, (frames, -1)).transpose(2, 3).flatten(1, 2)
    frame = (reach.past or 0) + 1

    def decode(given: Tensor, mask: Tensor | None) -> Tensor:
        return network.decoder(given, mask).unflatten(2, (frames, -1)).transpose(2, 3).flatten(1, 2)

    end = frame + 1 + reach.future
    _expect_unaffected(decode, latents, decoded, frame, slice(end, None), f"frames from {end} on")
    if reach.past is not None:
        start = frame - reach.past
        _expect_unaffected(decode, latents, decoded, frame, slice(0, start), f"frames before {start}")
    return None


@about("as_stream", "reach", "forward", "__init__")
@torch.no_grad()
def streams(case: NetworkCase) -> str | None:
    """Processed block by block, encoder and decoder return the latents and audio of the whole."""
    network = case.build()
    frames = _frames_for_streams(network)
    if frames is None:
        return "its receptive field is too long for this check"
    wav = case.wav(network, 2, frames)
    latents = network.encoder(wav, None)
    decoded = network.decoder(latents, None)
    hop, reasons = network.hop_length, []
    audio, survey = wav, network.survey(lambda: wav[:1].split(hop + 1, dim=2))
    if survey is not None:  # of one recording
        audio, latents = wav[:1], latents[:1]
    for what, make, given, needed in (
        ("latents", functools.partial(network.encoder_stream, survey), audio, latents),
        ("audio", network.decoder_stream, latents, decoded[: len(latents)]),
    ):
        try:
            module = make()
        except StreamingError as error:
            reasons.append(str(error))
            continue
        for sizes in ((1, 2, 3), (hop, 1, 2 * hop - 1), (given.shape[2],)):
            got = _streamed(module, given, sizes)
            expect_close(got, needed, f"{what} in blocks of {sizes[0]}, …", TOLERANCE)
    return "; ".join(reasons) or None


def gradients(case: NetworkCase) -> None:
    """A finite gradient of the output audio reaches the input audio and every trainable parameter."""
    network = case.build()
    wav = case.wav(network).requires_grad_()
    modules = nn.ModuleDict({"encoder": network.encoder, "decoder": network.decoder}).train()
    latents = network.encoder(wav, None)
    uses_target = getattr(network.decoder, "uses_target_audio", False)
    out = network.decoder(latents, None, wav) if uses_target else network.decoder(latents, None)
    losses = list(out.losses.values()) if isinstance(out, AudioWithLosses) else []
    audio = out.wav if isinstance(out, AudioWithLosses) else out
    upstream = torch.randn(audio.shape, generator=torch.Generator().manual_seed(7))
    torch.stack([(audio * upstream).sum(), *losses]).sum().backward()
    expect(wav.grad is not None and bool(wav.grad.any()), "no gradient reaches the input audio")
    for name, parameter in modules.named_parameters():
        if parameter.requires_grad:
            expect(parameter.grad is not None, f"parameter {name} gets no gradient")
            expect(
                parameter.grad is not None and bool(parameter.grad.isfinite().all()),
                f"the gradient of {name} is non-finite",
            )


@torch.no_grad()
def eval_changes_nothing(case: NetworkCase) -> None:
    """In eval, results are repeatable bit for bit, no random numbers are drawn and no state changes."""
    network = case.build()
    modules = nn.ModuleDict({"encoder": network.encoder, "decoder": network.decoder})
    before, wav, random = _state(modules), case.wav(network), torch.get_rng_state()
    latents = network.encoder(wav, None)
    decoded = network.decoder(latents, None)
    expect_equal(network.encoder(wav, None), latents, "second encoding of the same audio")
    expect_equal(network.decoder(latents, None), decoded, "second decoding of the same latents")
    expect_same_state(_state(modules), before, "in eval")
    expect(torch.equal(torch.get_rng_state(), random), "in eval it draws from torch's global generator")


@torch.no_grad()
def input_unchanged(case: NetworkCase) -> None:
    """Encoder and decoder do not modify their input."""
    network, mask = case.build(), _mask()
    wav = case.wav(network)
    original = wav.clone()
    latents = network.encoder(wav, mask)
    given = latents.clone()
    network.decoder(given, mask)
    expect_equal(wav, original, "the audio, after the encoder")
    expect_equal(given, latents, "the latents, after the decoder")


@torch.no_grad()
def autocast(case: NetworkCase) -> None:
    """Under autocast, shapes are the same and values stay finite."""
    network = case.build()
    wav = case.wav(network)
    with torch.autocast("cpu", torch.bfloat16):
        latents = network.encoder(wav, None)
        decoded = network.decoder(latents, None)
    needed = (len(wav), network.dim, FRAMES)
    expect(
        tuple(latents.shape) == needed, f"latents inside autocast: {list(latents.shape)}, not {list(needed)}"
    )
    expect(decoded.shape == wav.shape, f"audio inside autocast: {list(decoded.shape)}, not {list(wav.shape)}")
    for what, tensor in {"latents": latents, "audio": decoded}.items():
        expect(bool(tensor.isfinite().all()), f"{what} inside autocast: non-finite")


@torch.no_grad()
def save_load(case: NetworkCase) -> None:
    """Saved with safetensors and loaded into a network of another seed: same latents and audio."""
    network, other = case.build(), case.build(seed=1)
    wav = case.wav(network)
    latents = network.encoder(wav, None)
    decoded = network.decoder(latents, None)
    for module, twin in ((network.encoder, other.encoder), (network.decoder, other.decoder)):
        content = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
        twin.load_state_dict(safetensors.torch.load(safetensors.torch.save(content)))
    expect_equal(other.encoder(wav, None), latents, "latents after loading")
    expect_equal(other.decoder(latents, None), decoded, "audio after loading")


@torch.no_grad()
def same_seed(case: NetworkCase) -> None:
    """The same seed gives the same weights, and a deep copy the same latents and audio."""
    network, other = case.build(seed=3), case.build(seed=3)
    for what in ("encoder", "decoder"):
        expect_same_state(
            _state(getattr(other, what)), _state(getattr(network, what)), f"{what} with the same seed"
        )
    wav = case.wav(network)
    latents = network.encoder(wav, None)
    expect_equal(copy.deepcopy(network.encoder)(wav, None), latents, "latents of a copy")
    twin = copy.deepcopy(network.decoder)
    expect_equal(twin(latents, None), network.decoder(latents, None), "audio of a copy")


TESTS: tuple[Callable[[NetworkCase], str | None], ...] = (
    builds,
    shapes,
    padding,
    items_are_independent,
    encoder_reach,
    decoder_reach,
    streams,
    gradients,
    eval_changes_nothing,
    input_unchanged,
    autocast,
    save_load,
    same_seed,
)


def _check(
    test: Callable[[NetworkCase], str | None],
    case: NetworkCase,
    needs: tuple[Check, ...],
    source: PluginSource,
) -> Check:
    name = getattr(test, "__name__", "")
    methods = getattr(test, "methods", ("forward", "__init__"))
    return Check(
        f"{case.name}/{name}", summary_of(test), functools.partial(test, case), needs, source, methods
    )


def _classes_of(network: Network) -> list[type]:
    modules = [*network.encoder.modules(), *network.decoder.modules()]
    return [each for each in dict.fromkeys(map(type, modules)) if not each.__module__.startswith("torch.")]


def _mask() -> Tensor:
    return torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]  # [B, T]


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in (*module.named_parameters(), *module.named_buffers())}


def _frames_for_streams(network: Network) -> int | None:
    """Return a length that is longer than the receptive field; None if that is too long to test."""
    encoder, decoder = network.encoder_reach, network.decoder_reach
    frames = 3 * FRAMES
    for reach, unit in ((encoder, network.hop_length), (decoder, 1)):
        if reach is not None:
            frames += -(-((reach.past or 0) + reach.future) // unit)
    return frames if frames <= MAX_TESTED_FRAMES else None


def _streamed(module: StreamingModule, given: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the output of a stream: blocks of these sizes, then the rest.

    Raises CheckFailed if a step changes its state in place.
    """
    sizes = [size for size in sizes if size <= given.shape[2]]
    blocks = list(given.split([*sizes, given.shape[2] - sum(sizes)], dim=2)) if sizes else [given]
    state = join([module.start(given.device) for _ in given])
    outputs = []
    for block in blocks:
        before = map_tensors(Tensor.clone, state)
        output, new_state = module.step(block, state, last=block is blocks[-1])
        for (name, value), (_, old) in zip(flatten(state), flatten(before), strict=True):
            if isinstance(value, Tensor) and isinstance(old, Tensor):
                expect_equal(value, old, f"state {name!r} after a step, which must not change it in place")
        state = new_state
        if output.shape[2]:
            outputs.append(output)
    return torch.cat(outputs, dim=2)


def _frames_of(samples: int | None, hop: int) -> int | None:
    return None if samples is None else -(-samples // hop)


def _expect_tensor(got: Tensor, shape: tuple[int, ...], what: str) -> None:
    expect(tuple(got.shape) == shape, f"{what}: shape {list(got.shape)}, not {list(shape)}")
    expect(got.dtype == torch.float32, f"{what}: {got.dtype}, not float32")
    expect(bool(got.isfinite().all()), f"{what}: non-finite")


def _expect_close_where(got: Tensor, needed: Tensor, real: Tensor, what: str) -> None:
    expect_close(torch.where(real, got, 0.0), torch.where(real, needed, 0.0), what, TOLERANCE)


def _expect_unaffected(
    module: Callable[[Tensor, Tensor | None], Tensor],
    given: Tensor,
    needed: Tensor,
    frame: int,
    beyond: slice,
    what: str,
) -> None:
    """Check that output frame `frame` stays the same when the input at `beyond` is replaced."""
    other = given.clone()
    noise = torch.randn(other[:, :, beyond].shape, generator=torch.Generator().manual_seed(9))
    other[:, :, beyond] = noise * given.std()
    got = module(other, None)[:, :, frame]
    expect_close(got, needed[:, :, frame], f"frame {frame}, with different {what}", TOLERANCE)
