"""Which recipe keys may change when a run is resumed.

A run is defined by all keys that change what a step computes, except the number of steps. If one of these
changed, the run could not be reproduced. The other keys set duration, speed, threads and logging.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codecvq.plugins.declarations import DeclaredPlugin, same_plugins
from codecvq.training.recipe import Recipe

#: Keys, or sections with all their keys. Every key of a recipe is in exactly one of these three tables.
FIXED_KEYS = (
    "sample_rate", "channels", "network", "quantizer", "losses", "discriminator", "optimizer", "plugins",
    "corpus.name", "corpus.reader", "corpus.options", "corpus.split_by", "corpus.speakers",
    "corpus.exclude_speakers", "corpus.segment_s", "corpus.balance", "corpus.augment",
    "training.batch_size", "training.accumulate", "training.average", "training.init_from",
    "training.init_partial", "training.freeze", "training.seed", "training.precision",
)  # fmt: skip
CHANGEABLE_KEYS = (
    "description", "evaluation",
    "corpus.cache", "corpus.cache_gb",
    "training.steps", "training.minutes", "training.workers", "training.threads", "training.compile",
    "training.trackers", "training.log_every", "training.checkpoint_every", "training.keep_checkpoints",
    "training.validate_every", "training.validation_clips", "training.validation_metrics",
    "training.keep_best", "training.max_bad_steps", "training.code_tables_minutes",
)  # fmt: skip
#: Location of the audio. May change if the clips stay the same, see `RunFolder.check_clips`.
LOCATION_KEYS = ("corpus.source", "corpus.folder", "corpus.manifest", "corpus.root")
PATH_KEYS = ("training.init_from",)  # different paths of the same file or folder are equal


def differences(old: Recipe, new: Recipe) -> list[str]:
    """`key: old -> new` for every key that defines a run and differs between two recipes.

    A precision of "auto" in the new recipe matches any precision.
    """
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    changed = [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
        and not is_within(key, (*CHANGEABLE_KEYS, *LOCATION_KEYS))
        and not (key == "training.precision" and after.get(key) == "auto")
        and not (key in PATH_KEYS and _same_path(before.get(key), after.get(key)))
        and key != "plugins"
    ]
    if not same_plugins(old.plugins, new.plugins):
        files = " -> ".join(
            ", ".join(map(_short_plugin, each)) or "none" for each in (old.plugins, new.plugins)
        )
        changed.append(f"plugins: {files}: restore the files that the run was started with")
    return changed


def location_changes(old: Recipe, new: Recipe) -> list[str]:
    """`key: old -> new` for every key with a location of the audio that differs."""
    before, after = old.corpus.model_dump(), new.corpus.model_dump()
    names = [place.removeprefix("corpus.") for place in LOCATION_KEYS]
    return [
        f"corpus.{name}: {before[name]} -> {after[name]}" for name in names if before[name] != after[name]
    ]


def is_within(key: str, keys: tuple[str, ...]) -> bool:
    """Whether `key` or a section that contains it is in `keys`."""
    return any(key == each or key.startswith(f"{each}.") for each in keys)


def _short_plugin(plugin: str) -> str:
    """An entry of `plugins` for an error message."""
    entry = DeclaredPlugin.parse(plugin)
    return f"{entry.source} (sha256 {entry.sha256[:12]}…)" if entry.sha256 else entry.source


def _same_path(one: object, other: object) -> bool:
    return isinstance(one, str) and isinstance(other, str) and Path(one).resolve() == Path(other).resolve()


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
