"""The plugin API: what a plugin can offer (frozen dataclasses) and the hooks it offers them through.

A hook implementation *yields specs*; it is called without arguments, so that a plugin is tested by calling a
function and looking at what it yields. A spec names its factory by string (`"package.module:Name"`), which is
imported on first use: so listing plugins costs no torch. This module imports none either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from codecvq.api.training import TrainRun

PROJECT = "codecvq"
API_VERSION = 1  # of the specs below; a spec written for a newer one is refused with the version to install

PART_KINDS = ("features", "backbone", "head")  # of `NetworkPartSpec`

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What every offer has: a name that recipes say, a factory, and a line for `codecvq plugins list`."""

    name: str  # lower case letters, digits and underscores, hyphens between them; begins with a letter
    # "module:attribute", or the thing itself. Any: what a factory makes depends on the kind
    factory: str | Callable[..., Any]
    # what declares the options that the factory takes as `**options`: the name of another offer of the same
    # kind, whose options they are ("vq"); "module:attribute"; or a function, dataclass or pydantic model
    options: str | Callable[..., Any] = ""
    summary: str = ""  # one line
    reference: str = ""  # arXiv id, DOI or address of where the method comes from
    api: int = API_VERSION  # the version of this API that the plugin was written for


@dataclass(frozen=True, kw_only=True)
class QuantizerSpec(Spec):
    """A quantizer: the factory is a subclass of `codecvq.Quantizer`, called with `dim` and its options as
    keywords.
    """


@dataclass(frozen=True, kw_only=True)
class EstimatorSpec(Spec):
    """A gradient estimator: the factory is `(x, z, q) -> G x`, see `codecvq.quantizer.estimators`."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(Spec):
    """An encoder and decoder: the factory is called with `sample_rate`, `channels` and its options, and makes
    a `Network`.
    """


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSpec(NetworkSpec):
    """A network that judges audio in adversarial training: the factory is called with `sample_rate`,
    `channels` and its options, and makes a `Discriminator`. Offered through the hook of networks.
    """


@dataclass(frozen=True, kw_only=True)
class NetworkPartSpec(Spec):
    """A part of the network `spectral`, of a `kind`: what its factory makes and is called with, beside its
    options.

    - "features": a `codecvq.networks.FrontEnd`, from `sample_rate`, `hop_length`, `causal`,
      `lookahead_frames`;
    - "backbone": a `codecvq.networks.FrameNetwork`, from `features` (their number) and `causal`;
    - "head": a `codecvq.networks.Head`, from `sample_rate`, `hop_length`, `causal`, `dim` and `backbone`, a
      function from a number of features to the decoder's backbone.
    """

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in PART_KINDS:
            raise ValueError(f"part {self.name!r} is of kind {self.kind!r}; it is {', '.join(PART_KINDS)}")


@dataclass(frozen=True, kw_only=True)
class LossSpec(Spec):
    """A loss of a training: the factory is called with `sample_rate` and its options as keywords, and makes a
    `codecvq.losses.Loss`, or another module that is called with `LossInputs` and gives a 0-d tensor.
    """


@dataclass(frozen=True, kw_only=True)
class TeacherSpec(Spec):
    """A frozen network for losses of features: the factory is called with `sample_rate` and its options as
    keywords, and makes a `codecvq.losses.Teacher`.
    """


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Spec):
    """A measure of a reconstruction: the factory is called without arguments and makes a function `(reference
    [S], decoded [S], sample_rate) -> {column: value}` over float32 numpy arrays of equal length.
    """

    columns: tuple[str, ...]  # the names of the values, in the order in which reports show them
    unit: str = ""  # "dB", "MOS-LQO" …; empty for a plain number
    higher_is_better: bool = True
    default: bool = True  # part of an evaluation that names no metrics
    extra: str = ""  # the extra of codecvq that brings its packages; empty when the base install does
    requires: tuple[str, ...] = ()  # import names of packages that must be there


@dataclass(frozen=True, kw_only=True)
class CodecSpec(Spec):
    """A codec that is ready for use: what `codecvq.load(NAME)` gives, and `codecvq compare NAME` measures.

    Either `folder`, which `Codec.save` wrote and which travels in the plugin's wheel; or `factory`, called
    with `device`, which makes an `AudioCodec`: a `Codec`, or a subclass of `WrappedCodec` around a model that
    exists. The factory of a `foreign` codec, one without codes, is called without arguments and makes a
    `codecvq.evaluation.transmission.Transmitter`: samples go in, samples come out.
    """

    factory: str | Callable[..., Any] = ""
    folder: str = ""  # relative to the plugin's own module file
    foreign: bool = False
    licence: str = ""  # of the weights, and of the data behind them where that asks for it
    card: str = ""  # the model card, a file relative to the plugin's own module file

    def __post_init__(self) -> None:
        if bool(self.factory) == bool(self.folder) or (self.foreign and self.folder):
            raise ValueError(
                f"codec {self.name!r} has factory {self.factory!r} and folder {self.folder!r}; one of them "
                "is needed, and a foreign codec has a factory"
            )


@dataclass(frozen=True, kw_only=True)
class CorpusSpec(Spec):
    """A corpus: the factory is called with `root` (a folder, or None for where it is usually installed) and
    yields `Clip`s.
    """

    licence: str = ""
    install: str = ""  # what to do to get it, as a sentence or a command: shown when it is not found


@dataclass(frozen=True, kw_only=True)
class ReaderSpec(Spec):
    """A reader of speech: the factory is called with `source`, a path or an address as text, and with its
    options as keywords. It yields `Clip`s, and a `ClipFailure` for each that cannot be used; or it gives a
    `codecvq.data.ClipListing` of a sequence that makes a clip when it is taken.
    """

    #: `(source) -> bool`, or "module:attribute": whether the reader knows a source. It is quick: it looks at
    #: a name, and at most at the first lines of a file. "": the reader is only used by its name.
    matches: str | Callable[[str], bool] = ""
    general: bool = False  # whether it gives way to other readers that match


@dataclass(frozen=True, kw_only=True)
class RecipeSpec(Spec):
    """A recipe: the factory is the path of its YAML file, relative to the plugin's own module file."""


@hookspec
def codecvq_quantizers() -> Iterable[QuantizerSpec]:
    """Quantizers; each also becomes `residual_NAME` and `grouped_NAME`."""
    return ()


@hookspec
def codecvq_estimators() -> Iterable[EstimatorSpec]:
    """Gradient estimators, what the option `estimator` of a quantizer names."""
    return ()


@hookspec
def codecvq_networks() -> Iterable[NetworkSpec]:
    """Encoder and decoder pairs, what `network.name` in a recipe names; and discriminators, what
    `discriminator.networks` names.
    """
    return ()


@hookspec
def codecvq_network_parts() -> Iterable[NetworkPartSpec]:
    """Parts of the network `spectral`, what `network.features`, `encoder_backbone`, `decoder_backbone` and
    `head` in a recipe name.
    """
    return ()


@hookspec
def codecvq_losses() -> Iterable[LossSpec]:
    """Losses, what keys of `losses` in a recipe name."""
    return ()


@hookspec
def codecvq_teachers() -> Iterable[TeacherSpec]:
    """Teachers, what the option `teacher` of a loss names."""
    return ()


@hookspec
def codecvq_metrics() -> Iterable[MetricSpec]:
    """Measures for `codecvq evaluate`."""
    return ()


@hookspec
def codecvq_codecs() -> Iterable[CodecSpec]:
    """Codecs that are trained already, what `codecvq.load` finds by name; and codecs without codes, to
    compare.
    """
    return ()


@hookspec
def codecvq_corpora() -> Iterable[CorpusSpec]:
    """Speech to train on, what `corpus.name` in a recipe names."""
    return ()


@hookspec
def codecvq_readers() -> Iterable[ReaderSpec]:
    """Readers of speech, what `corpus.reader` in a recipe names, or finds by `corpus.source`."""
    return ()


@hookspec
def codecvq_recipes() -> Iterable[RecipeSpec]:
    """Recipes, what `codecvq train NAME` finds."""
    return ()


@hookspec
def codecvq_train_start(run: TrainRun) -> None:
    """Called in the main process before the first step; a plugin keeps what it needs in `run.state`."""


@hookspec
def codecvq_train_logged(run: TrainRun, step: int, scalars: Mapping[str, float]) -> None:
    """Called in the main process whenever scalars have been written to metrics.jsonl."""
