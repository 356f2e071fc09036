"""The plugin API: the specs that a plugin registers (frozen dataclasses) and the hooks that yield them.

A registration hook takes no arguments and *yields specs*, so a test can call it and check the specs. A spec
names its factory by a string, `"package.module:Name"`, which is imported on first use. Listing plugins
therefore does not import torch; this module does not import it either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from codecvq.api.training import TrainRun

PROJECT = "codecvq"
API_VERSION = 1  # of the specs below; a spec for a newer version is rejected

PART_KINDS = ("features", "backbone", "head")  # of `NetworkPartSpec`

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base class of specs: a name for recipes, a factory, and a summary for `codecvq plugins list`."""

    name: str  # lowercase letters, digits, underscores and inner hyphens; starts with a letter
    # "module:attribute", or the callable itself. Any: the result depends on the kind
    factory: str | Callable[..., Any]
    # declares the options that the factory accepts as `**options`: the name of another registration of the
    # same kind that has these options ("vq"); "module:attribute"; or a function, dataclass or pydantic model
    options: str | Callable[..., Any] = ""
    summary: str = ""  # one line
    reference: str = ""  # arXiv id, DOI or URL of the method
    api: int = API_VERSION  # API version that the plugin was written for


@dataclass(frozen=True, kw_only=True)
class QuantizerSpec(Spec):
    """A quantizer.

    The factory is a subclass of `codecvq.Quantizer`. It is called with `dim` and its options as keywords.
    """


@dataclass(frozen=True, kw_only=True)
class EstimatorSpec(Spec):
    """A gradient estimator. The factory is `(x, z, q) -> G x`, see `codecvq.quantizer.estimators`."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(Spec):
    """An encoder and decoder.

    The factory is called with `sample_rate`, `channels` and its options, and returns a `Network`.
    """


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSpec(NetworkSpec):
    """A discriminator for adversarial training, yielded by the hook `codecvq_networks`.

    The factory is called with `sample_rate`, `channels` and its options, and returns a `Discriminator`.
    """


@dataclass(frozen=True, kw_only=True)
class NetworkPartSpec(Spec):
    """A part of the network `spectral`.

    The `kind` determines what the factory returns and, in addition to its options, its arguments:

    - "features": returns a `codecvq.networks.FrontEnd`; arguments `sample_rate`, `hop_length`, `causal`,
      `lookahead_frames`;
    - "backbone": returns a `codecvq.networks.FrameNetwork`; arguments `features` (their number) and `causal`;
    - "head": returns a `codecvq.networks.Head`; arguments `sample_rate`, `hop_length`, `causal`, `dim` and
      `backbone`, a function that takes the number of features and returns the decoder's backbone.

    Raises ValueError for another kind.
    """

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in PART_KINDS:
            raise ValueError(
                f"part {self.name!r} is of kind {self.kind!r}; known kinds are {', '.join(PART_KINDS)}"
            )


@dataclass(frozen=True, kw_only=True)
class LossSpec(Spec):
    """A training loss.

    The factory is called with `sample_rate` and its options as keywords. It returns a `codecvq.losses.Loss`,
    or another module that takes `LossInputs` and returns a 0-d tensor.
    """


@dataclass(frozen=True, kw_only=True)
class TeacherSpec(Spec):
    """A frozen network for feature losses.

    The factory is called with `sample_rate` and its options as keywords, and returns a
    `codecvq.losses.Teacher`.
    """


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Spec):
    """A metric of reconstructed audio.

    The factory takes no arguments and returns a function `(reference [S], decoded [S], sample_rate) ->
    {column: value}` of float32 numpy arrays of equal length.
    """

    columns: tuple[str, ...]  # names of the values, in the order of reports
    unit: str = ""  # "dB", "MOS-LQO" …; empty for a plain number
    higher_is_better: bool = True
    default: bool = True  # whether it is computed if an evaluation names no metrics
    extra: str = ""  # the extra of codecvq that installs its packages; empty: the base install
    requires: tuple[str, ...] = ()  # import names of required packages


@dataclass(frozen=True, kw_only=True)
class CodecSpec(Spec):
    """A pretrained codec, for `codecvq.load(NAME)` and `codecvq compare NAME`.

    Set exactly one of `folder` and `factory`. `folder` is a folder that `Codec.save` wrote, bundled with the
    plugin. `factory` is called with `device` and returns an `AudioCodec`: a `Codec`, or a subclass of
    `WrappedCodec` around an existing model. An `external` codec, such as Opus, has no codes. Its factory
    takes no arguments and returns a `codecvq.evaluation.transmission.Transmitter`, which maps samples to
    samples.

    Raises ValueError if neither or both fields are set, or if an `external` codec has a `folder`.
    """

    factory: str | Callable[..., Any] = ""
    folder: str = ""  # path relative to the plugin's module file
    external: bool = False  # whether the codec has no codes
    licence: str = ""  # license of the weights, and of the training data if required
    card: str = ""  # path of the model card, relative to the plugin's module file

    def __post_init__(self) -> None:
        if bool(self.factory) == bool(self.folder) or (self.external and self.folder):
            raise ValueError(
                f"codec {self.name!r} has factory {self.factory!r} and folder {self.folder!r}; one of them "
                "is needed, and an external codec needs a factory"
            )


@dataclass(frozen=True, kw_only=True)
class CorpusSpec(Spec):
    """A corpus.

    The factory is called with `root`, a folder or None for the usual location. It yields
    a `Clip` for each clip and a `ClipFailure` for each unusable one, or returns a `codecvq.data.ClipListing`.
    """

    licence: str = ""
    install: str = ""  # how to install the corpus, a sentence or command; shown if it is missing


@dataclass(frozen=True, kw_only=True)
class ReaderSpec(Spec):
    """A reader of speech data.

    The factory is called with `source`, a path or URL as text, and its options as keywords. It yields a
    `Clip` for each clip and a `ClipFailure` for each unusable one; or it returns a `codecvq.data.ClipListing`
    of a sequence that creates clips on access.
    """

    #: `(source) -> bool`, or "module:attribute": whether the reader supports a source. It must be fast: check
    #: the name, and at most the first lines of a file. "": the reader is used only if named explicitly.
    matches: str | Callable[[str], bool] = ""
    general: bool = False  # whether other matching readers take precedence


@dataclass(frozen=True, kw_only=True)
class RecipeSpec(Spec):
    """A recipe. The factory is the path of its YAML file, relative to the plugin's module file."""


@hookspec
def codecvq_quantizers() -> Iterable[QuantizerSpec]:
    """Quantizers; each is also available as `residual_NAME`, `multiscale_NAME` and `grouped_NAME`."""
    return ()


@hookspec
def codecvq_estimators() -> Iterable[EstimatorSpec]:
    """Gradient estimators, for the option `estimator` of a quantizer."""
    return ()


@hookspec
def codecvq_networks() -> Iterable[NetworkSpec]:
    """Encoders with decoders, for `network.name`, and discriminators, for `discriminator.networks`."""
    return ()


@hookspec
def codecvq_network_parts() -> Iterable[NetworkPartSpec]:
    """Parts of the network `spectral`.

    A recipe names them in `features`, `encoder_backbone`, `decoder_backbone` and `head` of `network`.
    """
    return ()


@hookspec
def codecvq_losses() -> Iterable[LossSpec]:
    """Losses, for the keys of `losses` in a recipe."""
    return ()


@hookspec
def codecvq_teachers() -> Iterable[TeacherSpec]:
    """Teachers, for the option `teacher` of a loss."""
    return ()


@hookspec
def codecvq_metrics() -> Iterable[MetricSpec]:
    """Metrics for `codecvq evaluate`."""
    return ()


@hookspec
def codecvq_codecs() -> Iterable[CodecSpec]:
    """Pretrained codecs, for `codecvq.load`; and codecs without codes, for `codecvq compare`."""
    return ()


@hookspec
def codecvq_corpora() -> Iterable[CorpusSpec]:
    """Corpora, for `corpus.name` in a recipe."""
    return ()


@hookspec
def codecvq_readers() -> Iterable[ReaderSpec]:
    """Readers of speech data, for `corpus.reader` in a recipe; by default `corpus.source` selects one."""
    return ()


@hookspec
def codecvq_recipes() -> Iterable[RecipeSpec]:
    """Recipes, for `codecvq train NAME`."""
    return ()


@hookspec
def codecvq_train_start(run: TrainRun) -> None:
    """Called in the main process before the first step. A plugin can store data in `run.state`."""


@hookspec
def codecvq_train_logged(run: TrainRun, step: int, scalars: Mapping[str, float]) -> None:
    """Called in the main process after scalars are written to metrics.jsonl."""
