"""`Recipe`: the complete configuration of a training, read from a YAML file and validated."""

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
    """Base class of the sections of a recipe: unknown keys are errors, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CorpusSection(Section):
    """The training corpus and its segments.

    Exactly one of `source`, `name`, `folder` and `manifest` is needed. The last three are short forms of a
    source with the reader `corpus`, `folder` or `manifest`.
    """

    source: str | None = None  # path or URL
    reader: str | None = None  # name of the reader of the source; None: detected
    options: dict[str, Any] = {}  # of the reader
    name: str | list[str] | None = None  # of a registered corpus, or of several to combine
    folder: str | None = None
    manifest: str | None = None
    root: str | None = None  # folder of registered corpora; None: the usual location
    split_by: Literal["clip", "speaker"] = "clip"
    speakers: list[str] | None = None  # train on these only; None: all
    exclude_speakers: list[str] = []
    segment_s: float = Field(1.0, gt=0, le=3600)
    balance: float = Field(0.0, ge=0, le=1)  # 0: sample seconds uniformly; 1: sample speakers uniformly
    cache: Literal["memory", "device"] = "memory"  # device: store all audio on the GPU and cut segments there
    cache_gb: float = Field(2.0, ge=0, le=1e6)  # decoded audio cached in memory, per process
    augment: AugmentConfig = AugmentConfig()


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSection(Section):
    """AdamW with linear warm-up and cosine decay to `final_ratio` of the learning rate."""

    learning_rate: float = Field(1e-3, gt=0)
    betas: tuple[Beta, Beta] = (0.8, 0.99)
    weight_decay: float = Field(0.01, ge=0)
    warmup_steps: int = Field(100, ge=0)
    final_ratio: float = Field(0.01, ge=0, le=1)
    max_grad_norm: float = Field(100.0, gt=0)


class DiscriminatorSection(Section):
    """Discriminators of adversarial training, their schedule and their optimizer."""

    networks: list[dict[str, Any]] = Field(min_length=1)  # `name` and options of each discriminator
    loss: Literal["hinge", "least_squares"] = "hinge"
    start_step: int = Field(0, ge=0)
    every_step: int = Field(1, gt=0)  # use and update them in every n-th step
    every_item: int = Field(1, gt=0)  # pass every n-th batch item of a process to them
    in_turn: bool = False  # one network per step, in turn, instead of all
    optimizer: OptimizerSection = OptimizerSection(
        learning_rate=3e-4, betas=(0.8, 0.99), warmup_steps=0, max_grad_norm=10.0
    )

    @field_validator("networks")
    @classmethod
    def _check_names(cls, networks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for options in networks:
            check_part_options("network", options)
            if not isinstance(options.get("name"), str):
                raise ValueError(
                    f"{shortened(options)} has no name. Set one, for example {{name: multi_band}}"
                )
        return networks


class TrainingSection(Section):
    """Duration, batch size, precision, checkpoints and validation of a training."""

    steps: int = Field(gt=0, le=10**9)
    minutes: float | None = Field(None, gt=0)  # wall time; `steps` becomes the number that fits into it
    batch_size: int = Field(16, gt=0, le=10**5)  # items per process in one pass
    accumulate: int = Field(1, gt=0, le=10**5)  # batches per step; each one updates the codebooks
    average: float = Field(0.0, ge=0, lt=1)  # decay of the weight average, e.g. 0.999; 0: no average
    compile: bool = False  # use torch.compile for encoder and decoder
    init_from: str | None = None  # initial weights: a run folder, codec folder or registered codec
    init_partial: bool = False  # skip weights that do not fit instead of raising
    freeze: list[Literal["encoder", "quantizer", "decoder"]] = []  # parts that are not trained
    workers: int = Field(0, ge=0, le=1000)  # processes that cut segments; 0: a thread of this process
    trackers: list[str] = []  # of accelerate, in addition to TensorBoard: wandb, trackio
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = (
        "auto"  # of the networks; quantizers and losses are float32
    )
    threads: int | None = Field(None, gt=0, le=4096)  # CPU threads; None: see `training.device`
    log_every: int = Field(10, gt=0)  # steps
    checkpoint_every: int = Field(500, gt=0)  # steps
    keep_checkpoints: int = Field(2, gt=0)
    validate_every: int = Field(500, gt=0)  # steps
    validation_clips: int = Field(16, ge=0)
    validation_metrics: list[str] = []  # registered metrics such as stoi, in addition to the mel loss
    keep_best: str = "validation/mel"  # selects the codec in best/; validation/NAME for a metric
    #: Minutes of training audio whose codes are counted at the end, for smaller `.cvq` files; 0: none.
    code_tables_minutes: float = Field(10.0, ge=0, le=1e4)
    max_bad_steps: int = Field(10, gt=0)  # consecutive skipped steps (NaN or infinity) that end the training


class EvaluationSection(Section):
    """Defaults of `codecvq evaluate RUN`."""

    metrics: list[str] | None = None  # None: all default metrics that are installed
    max_clips: int | None = Field(None, gt=0)


class Recipe(Section):
    """Configuration of a codec and its training."""

    description: str = ""
    sample_rate: int = Field(ge=SAMPLE_RATES[0], le=SAMPLE_RATES[1])  # Hz
    channels: int = Field(1, gt=0)  # training is mono
    network: dict[str, Any]  # `name` and the network's options
    quantizer: dict[str, Any]  # `name` and the quantizer's options; the network sets `dim`
    corpus: CorpusSection
    losses: LossesSection = LossesSection()
    discriminator: DiscriminatorSection | None = None
    optimizer: OptimizerSection = OptimizerSection()
    training: TrainingSection
    evaluation: EvaluationSection = EvaluationSection()
    plugins: list[str] = []  # required plugin files (relative to the recipe) or modules

    @field_validator("channels")
    @classmethod
    def _check_mono(cls, channels: int) -> int:
        if channels != 1:
            raise ValueError(
                "training audio is mixed to mono. Set channels to 1, and encode the channels of "
                "multichannel audio separately"
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
                "there is no reconstruction loss: all weights in losses except the adversarial ones are 0. "
                "Set one, for example losses.mel to 15"
            )
        return self

    @model_validator(mode="after")
    def _check_discriminator(self) -> Recipe:
        uses_discriminator = self.losses.adversarial or self.losses.feature_matching
        if uses_discriminator and self.discriminator is None:
            raise ValueError(
                "losses.adversarial and losses.feature_matching need a discriminator, but the recipe has "
                "none. Add discriminator: {networks: [{name: multi_band}]}, or set both weights to 0"
            )
        if self.discriminator is not None and not uses_discriminator:
            raise ValueError(
                "the recipe has a discriminator, but losses.adversarial and losses.feature_matching are 0, "
                "so it is never used. Set them, for example to 1.0 and 2.0, or remove discriminator"
            )
        return self

    @model_validator(mode="after")
    def _check_workers(self) -> Recipe:
        if self.corpus.cache == "device" and self.training.workers:
            raise ValueError(
                f"training.workers is {self.training.workers}, but corpus.cache is device, which uses no "
                "workers. Set training.workers to 0, or corpus.cache to memory"
            )
        return self

    @model_validator(mode="after")
    def _check_freeze(self) -> Recipe:
        if self.training.freeze and self.training.init_from is None:
            raise ValueError(
                f"training.freeze is {self.training.freeze}, but training.init_from is not set. Set it to a "
                "codec with weights to freeze, for example speech-16k, or use --init-from"
            )
        if {"encoder", "decoder"} <= set(self.training.freeze):
            raise ValueError(
                "training.freeze contains encoder and decoder, so there is nothing to train. Remove one"
            )
        return self

    def to_yaml(self) -> str:
        """Return the recipe as YAML, with all defaults."""
        return dump_yaml(self.model_dump(mode="json"))


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe from a YAML file or a registered name, with `key.key=value` overrides.

    Does not load the plugins that the recipe declares; `missing_plugins` lists those that are not loaded.
    Raises RecipeError with the file, the key and the closest valid key.
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
    """Return the recipe with hashes of its plugins, and with the plugins `named` by the user added.

    Raises PluginError if a plugin declared by the recipe is not loaded.
    """
    return recipe.model_copy(update={"plugins": pinned_plugins(recipe.plugins, named)})


def find_recipe(source: str | Path) -> Path:
    """Path of a recipe: `source` if it looks like a path, else the file registered under this name.

    Raises RecipeError if there is neither.
    """
    text = str(source)
    if isinstance(source, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        if Path(text).is_file():
            return Path(text)
        if "/" not in text or text.endswith((".yaml", ".yml")):
            raise RecipeError(
                f"recipe {text} does not exist. Give a YAML file, or a name listed by: codecvq recipes list"
            )
    try:
        return registry().find(RecipeSpec, text).path()
    except UnknownName as error:
        raise RecipeError(f"{error} Or give the path of a YAML file.") from None


def load_run_recipe(path: Path) -> Recipe:
    """Load the recipe of a run folder, of this version or an earlier one.

    Losses of plugins that are not loaded are accepted: the trained codec does not need them.
    """
    tree = _read_tree(path)
    if isinstance(tree.get("losses"), dict):
        tree["losses"] = migrate_0_1_0(tree["losses"])
    return _build_recipe(tree, path)


def _read_tree(path: Path) -> dict[str, Any]:
    tree = read_yaml(path, error=RecipeError)
    if not isinstance(tree, dict):
        raise RecipeError(
            f"recipe {path} contains {type(tree).__name__}, not a mapping of keys and values. For an "
            "example, see: codecvq recipes show quickstart"
        )
    return tree


def _build_recipe(tree: Mapping[str, Any], path: Path) -> Recipe:
    """Build the recipe of a file, with absolute plugin paths and all options of registered losses."""
    recipe = _validate(tree, str(path))
    plugins = [str(DeclaredPlugin.parse(plugin).resolved(path.parent)) for plugin in recipe.plugins]
    return recipe.model_copy(update={"plugins": plugins, "losses": recipe.losses.resolved()})


def _override(tree: dict[str, Any], override: str) -> None:
    """Apply an override: `a.b=value` sets a key to a YAML value, `~a.b` resets it to its default.

    Removing a valid key that is not set is allowed.
    """
    removed = override.startswith("~")
    if override in ("", "~") or ("=" in override) == removed:
        raise RecipeError(
            f"override {shortened(override)} is neither key=value (such as training.steps=1000) nor ~key, "
            "which removes a key (such as ~discriminator)"
        )
    key, value = override[1:], None
    if not removed:
        key, value = parse_assignment(override, "override", error=RecipeError)
    *sections, last = key.split(".")
    node = tree
    for section in sections:
        child = node.get(section, {}) if removed else node.setdefault(section, {})
        if not isinstance(child, dict):
            why = "not set" if child is None else f"{shortened(child)}, which has no keys"
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
    """Convert a pydantic error to a sentence with advice."""
    location, key = problem["loc"], _dotted(problem["loc"])
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _known_keys(location[:-1])
        where = f"'{_dotted(location[:-1])}:'" if location[:-1] else "the top level"
        hint = nearest(str(location[-1]), known)
        return f"{key} is not a key of a recipe.{hint} Keys of {where}: {', '.join(known)}."
    if problem["type"] == "missing":
        return f"{key} is missing. For an example, see: codecvq recipes show quickstart"
    given = problem["input"]
    shown = f" is {shortened(given)}" if isinstance(given, (str, int, float, bool, list, tuple)) else ""
    where = f"{key}{shown}: " if key else ""  # no key: an error of the whole recipe
    return f"{where}{problem['msg'].removeprefix('Value error, ')}."


def _dotted(location: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in location)


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """Valid keys of the section at `location`."""
    section: Any = Recipe
    for part in location:
        field = section.model_fields.get(part) if issubclass(section, BaseModel) else None
        if field is None:  # options of a plugin, or an unknown key
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
