"""`Recipe`: everything that a training is, read from a YAML file and checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from codecvq.api.hookspecs import LossSpec, RecipeSpec
from codecvq.data import AugmentConfig
from codecvq.errors import RecipeError, UnknownName, nearest
from codecvq.limits import SAMPLE_RATES
from codecvq.plugins import registry
from codecvq.plugins.declarations import DeclaredPlugin, missing_plugins, pinned_plugins
from codecvq.plugins.options import check_part_options, shortened
from codecvq.plugins.registration import Origin
from codecvq.training.losses_section import LossesSection, expand_weights, merge_weight, migrate_0_1_0
from codecvq.yaml_file import dump_yaml, parse_assignment, read_yaml


class Section(BaseModel):
    """A part of a recipe: no key but those named, nothing changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CorpusSection(Section):
    """What to train on: one of `source`, `name`, `folder` and `manifest`; how it is cut. `name`, `folder` and
    `manifest` are short for a source with the reader `corpus`, `folder` or `manifest`.
    """

    source: str | None = None  # a path or an address
    reader: str | None = None  # that reads the source; None: the one that knows it
    options: dict[str, Any] = {}  # of the reader
    name: str | list[str] | None = None  # of registered corpora; several: all their clips together
    folder: str | None = None
    manifest: str | None = None
    root: str | None = None  # where registered corpora are, if not where they are usually installed
    split_by: Literal["clip", "speaker"] = "clip"
    speakers: list[str] | None = None  # only these
    exclude_speakers: list[str] = []
    segment_s: float = Field(1.0, gt=0, le=3600)
    balance: float = Field(0.0, ge=0, le=1)  # 0: every second is as likely; 1: every speaker is
    cache: Literal["memory", "device"] = "memory"  # device: all speech on the GPU, and segments cut there
    cache_gb: float = Field(2.0, ge=0, le=1e6)  # decoded audio kept in memory, a process
    augment: AugmentConfig = AugmentConfig()


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSection(Section):
    """AdamW, linear warm-up, then a cosine to `final_ratio` of the learning rate."""

    learning_rate: float = Field(1e-3, gt=0)
    betas: tuple[Beta, Beta] = (0.8, 0.99)
    weight_decay: float = Field(0.01, ge=0)
    warmup_steps: int = Field(100, ge=0)
    final_ratio: float = Field(0.01, ge=0, le=1)
    max_grad_norm: float = Field(100.0, gt=0)


class DiscriminatorSection(Section):
    """Who judges the decoded audio in adversarial training, from which step on, and how they learn."""

    networks: list[dict[str, Any]] = Field(min_length=1)  # each `name` and options of a discriminator
    loss: Literal["hinge", "least_squares"] = "hinge"
    start_step: int = Field(0, ge=0)
    every_step: int = Field(1, gt=0)  # they learn, and are heard, in each n-th step
    every_item: int = Field(1, gt=0)  # they are shown each n-th item of a process's batch
    in_turn: bool = False  # one of the networks a step, instead of all
    optimizer: OptimizerSection = OptimizerSection(
        learning_rate=3e-4, betas=(0.8, 0.99), warmup_steps=0, max_grad_norm=10.0
    )

    @field_validator("networks")
    @classmethod
    def _check_names(cls, networks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for options in networks:
            check_part_options("network", options)
            if not isinstance(options.get("name"), str):
                raise ValueError(f"{shortened(options)} has no name. Set it, as in {{name: multi_band}}")
        return networks


class TrainingSection(Section):
    """How long, how much at a time, how precisely, and when to save and look."""

    steps: int = Field(gt=0, le=10**9)
    minutes: float | None = Field(None, gt=0)  # of wall time: as many steps as fit, in place of `steps`
    batch_size: int = Field(16, gt=0, le=10**5)  # items a process, at a time
    accumulate: int = Field(1, gt=0, le=10**5)  # batches that make a step; codebooks are updated with each
    average: float = Field(0.0, ge=0, lt=1)  # decay of the moving average of the weights, as 0.999; 0: none
    compile: bool = False  # encoder and decoder by torch.compile
    init_from: str | None = None  # weights to begin with: a run, a codec's folder, or a registered codec
    init_partial: bool = False  # whether what does not fit is left out instead of refused
    freeze: list[Literal["encoder", "quantizer", "decoder"]] = []  # parts that stay as `init_from` has them
    workers: int = Field(0, ge=0, le=1000)  # processes that cut segments; 0: a thread of this one
    trackers: list[str] = []  # of accelerate, beside TensorBoard: wandb, trackio
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = (
        "auto"  # of the networks; quantizers and losses are float32
    )
    threads: int | None = Field(None, gt=0, le=4096)  # of the processor; None: see `training.device`
    log_every: int = Field(10, gt=0)  # steps
    checkpoint_every: int = Field(500, gt=0)  # steps
    keep_checkpoints: int = Field(2, gt=0)
    validate_every: int = Field(500, gt=0)  # steps
    validation_clips: int = Field(16, ge=0)
    validation_metrics: list[str] = []  # registered ones, as stoi, beside the mel loss
    keep_best: str = "validation/mel"  # by which the codec in best/ is chosen; a metric is validation/NAME
    max_bad_steps: int = Field(10, gt=0)  # skipped in a row (NaN or infinity) before the training stops


class EvaluationSection(Section):
    """What `codecvq evaluate RUN` does when it is told nothing else."""

    metrics: list[str] | None = None  # None: all default ones that are installed
    max_clips: int | None = Field(None, gt=0)


class Recipe(Section):
    """A codec, what it learns from, and how."""

    description: str = ""
    sample_rate: int = Field(ge=SAMPLE_RATES[0], le=SAMPLE_RATES[1])  # Hz
    channels: int = Field(1, gt=0)  # 1: training is mono
    network: dict[str, Any]  # `name` and the network's options
    quantizer: dict[str, Any]  # `name` and the quantizer's options; `dim` is the network's
    corpus: CorpusSection
    losses: LossesSection = LossesSection()
    discriminator: DiscriminatorSection | None = None
    optimizer: OptimizerSection = OptimizerSection()
    training: TrainingSection
    evaluation: EvaluationSection = EvaluationSection()
    plugins: list[str] = []  # files (relative to the recipe) or modules that must be loaded, see `declared`

    @field_validator("channels")
    @classmethod
    def _check_mono(cls, channels: int) -> int:
        if channels != 1:
            raise ValueError(
                "recordings are mixed to mono for training. Set channels to 1, and encode the channels of a "
                "recording one by one"
            )
        return channels

    @field_validator("network", "quantizer")
    @classmethod
    def _check_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        check_part_options(str(info.field_name), options)
        return options

    @model_validator(mode="after")
    def _check_codec_losses(self) -> Recipe:
        if set(self.losses.weights()) <= {"adversarial", "feature_matching"}:
            raise ValueError(
                "no loss compares what is decoded with what was recorded: all weights in losses but those of "
                "discriminators are 0. Set one, as losses.mel to 15"
            )
        return self

    @model_validator(mode="after")
    def _check_discriminator(self) -> Recipe:
        uses_discriminator = self.losses.adversarial or self.losses.feature_matching
        if uses_discriminator and self.discriminator is None:
            raise ValueError(
                "losses.adversarial and losses.feature_matching need a discriminator, and there is none. Add "
                "discriminator: {networks: [{name: multi_band}]}, or set both weights to 0"
            )
        if self.discriminator is not None and not uses_discriminator:
            raise ValueError(
                "a discriminator is there, but losses.adversarial and losses.feature_matching are 0: nobody "
                "would hear it. Set them, as to 1.0 and 2.0, or remove discriminator"
            )
        return self

    @model_validator(mode="after")
    def _check_workers(self) -> Recipe:
        if self.corpus.cache == "device" and self.training.workers:
            raise ValueError(
                f"training.workers is {self.training.workers}, but with corpus.cache device no worker cuts "
                "segments. Set training.workers to 0, or corpus.cache to memory"
            )
        return self

    @model_validator(mode="after")
    def _check_freeze(self) -> Recipe:
        if self.training.freeze and self.training.init_from is None:
            raise ValueError(
                f"training.freeze is {self.training.freeze}, but training.init_from does not name the codec "
                "whose weights stay. Set it, as to speech-16k, or give --init-from"
            )
        if {"encoder", "decoder"} <= set(self.training.freeze):
            raise ValueError("training.freeze names encoder and decoder: nothing is left that learns")
        return self

    def to_yaml(self) -> str:
        """The recipe with every default written out."""
        return dump_yaml(self.model_dump(mode="json"))


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file or registered under a name, with `key.key=value` overrides. Plugins that it
    declares are not loaded: `pinned_plugins` says which are missing.

    Raises RecipeError, which names the file, the key and the nearest valid key.
    """
    path = find_recipe(source)
    tree = _read_tree(path)
    if isinstance(tree.get("losses", {}), dict):
        tree["losses"] = expand_weights(tree.get("losses", {}))
    for override in overrides:
        _override(tree, override)
    recipe = _build_recipe(tree, path)
    if not missing_plugins(recipe.plugins):
        recipe.losses.check()
    return recipe


def with_loaded_plugins(recipe: Recipe, named: Sequence[Origin] = ()) -> Recipe:
    """The recipe with the hashes of its plugins, and with those that the user has `named` besides. Raises
    PluginError for one that the recipe declares and that is not loaded.
    """
    return recipe.model_copy(update={"plugins": pinned_plugins(recipe.plugins, named)})


def find_recipe(source: str | Path) -> Path:
    """The file of a recipe: `source` if it looks like a path, else the one registered under that name."""
    text = str(source)
    if isinstance(source, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        if Path(text).is_file():
            return Path(text)
        if "/" not in text or text.endswith((".yaml", ".yml")):
            raise RecipeError(
                f"recipe {text} does not exist. Give a YAML file, or a name from: codecvq recipes list"
            )
    try:
        return registry().find(RecipeSpec, text).path()
    except UnknownName as error:
        raise RecipeError(f"{error} Or give the path of a YAML file.") from None


def load_run_recipe(path: Path) -> Recipe:
    """The recipe that a run folder holds, of this version or an earlier one. Losses of plugins that are not
    there are no error: the codec that was trained needs none.
    """
    tree = _read_tree(path)
    if isinstance(tree.get("losses"), dict):
        tree["losses"] = migrate_0_1_0(tree["losses"])
    return _build_recipe(tree, path)


def _read_tree(path: Path) -> dict[str, Any]:
    tree = read_yaml(path, error=RecipeError)
    if not isinstance(tree, dict):
        raise RecipeError(
            f"recipe {path} holds {type(tree).__name__}, not keys with values. See: codecvq recipes show "
            "quickstart"
        )
    return tree


def _build_recipe(tree: Mapping[str, Any], path: Path) -> Recipe:
    """The recipe of a file's tree, with absolute paths of plugins and all options of known losses."""
    recipe = _validate(tree, str(path))
    plugins = [str(DeclaredPlugin.parse(plugin).resolved(path.parent)) for plugin in recipe.plugins]
    return recipe.model_copy(update={"plugins": plugins, "losses": recipe.losses.resolved()})


def _override(tree: dict[str, Any], override: str) -> None:
    """Set `a.b=value`, the value read as YAML, or remove `~a.b`, so that its default holds. A key that is
    known and not set may be removed too.
    """
    removed = override.startswith("~")
    if override in ("", "~") or ("=" in override) == removed:
        raise RecipeError(
            f"override {shortened(override)} is not key=value, as in training.steps=1000, nor ~key, which "
            "removes a key, as in ~discriminator"
        )
    key, value = override[1:], None
    if not removed:
        key, value = parse_assignment(override, "override", error=RecipeError)
    *sections, last = key.split(".")
    node = tree
    for section in sections:
        child = node.get(section, {}) if removed else node.setdefault(section, {})
        if not isinstance(child, dict):
            why = "not there" if child is None else f"{shortened(child)}, which has no keys of its own"
            raise RecipeError(f"override {shortened(override)}: {section!r} is {why}")
        node = child
    if not removed:
        node[last] = merge_weight(last, node.get(last), value) if sections == ["losses"] else value
    elif last in node:
        del node[last]
    elif last not in _known_keys(sections):
        known = [*map(str, node), *_known_keys(sections)]
        raise RecipeError(f"override {shortened(override)}: there is no {last!r}.{nearest(last, known)}")


def _validate(tree: Mapping[str, Any], origin: str) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        problems = error.errors()
        text = f"recipe {origin}: {_describe_problem(problems[0])}"
        if len(problems) > 1:
            text += f" ({len(problems) - 1} more: {', '.join(_dotted(p['loc']) for p in problems[1:])})"
        raise RecipeError(text) from error


def _describe_problem(problem: Mapping[str, Any]) -> str:
    """One pydantic problem as a sentence that says what to do."""
    location, key = problem["loc"], _dotted(problem["loc"])
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _known_keys(location[:-1])
        where = f"'{_dotted(location[:-1])}:'" if location[:-1] else "the top level"
        hint = nearest(str(location[-1]), known)
        return f"{key} is not a key of a recipe.{hint} Keys of {where}: {', '.join(known)}."
    if problem["type"] == "missing":
        return f"{key} is missing. Set it, as the recipes do that come along: codecvq recipes show quickstart"
    given = problem["input"]
    shown = f" is {shortened(given)}" if isinstance(given, (str, int, float, bool, list, tuple)) else ""
    where = f"{key}{shown}: " if key else ""  # of the whole recipe
    return f"{where}{problem['msg'].removeprefix('Value error, ')}."


def _dotted(location: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in location)


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """Keys of the section at `location`."""
    section: Any = Recipe
    for part in location:
        field = section.model_fields.get(part) if issubclass(section, BaseModel) else None
        if field is None:  # options of a plugin, or no key at all
            return []
        annotation = field.annotation
        section = next(
            (a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and _is_section(a)), Recipe
        )
    if is_dataclass(section):
        return [field.name for field in fields(section)]
    loss_names = registry().registrations(LossSpec) if section is LossesSection else ()
    return [*loss_names, *section.model_fields]


def _is_section(candidate: type) -> bool:
    return issubclass(candidate, BaseModel) or is_dataclass(candidate)
