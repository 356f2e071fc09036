"""The report of an evaluation: one self-contained HTML page to open, mail or serve.

The page has no scripts and no external addresses, and a content security policy enforces this. Style, images
and audio are embedded in the page. If the audio is too large for one file, it is in the folder `audio/` next
to the page.
"""

from __future__ import annotations

import base64
import importlib.resources
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from codecvq.audio import read_audio, to_mono
from codecvq.evaluation import report_sections as sections
from codecvq.evaluation.charts import spectrogram_pair
from codecvq.evaluation.report_sections import Sample
from codecvq.evaluation.result import ClipRow, Evaluation
from codecvq.evaluation.training_log import FILE as METRICS_FILE
from codecvq.evaluation.training_log import read_log
from codecvq.files import atomic_file, path_without_links, write_atomically

EMBED_BYTES = 8_000_000  # maximum size with embedded audio; mail servers and viewers accept it
#: Blocks all external requests. `file:` allows audio next to a page on disk, 'self' audio on the same server.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data: file: 'self'"


def write_report(
    folder: str | os.PathLike[str],
    evaluation: Evaluation,
    run_dir: str | os.PathLike[str] | None = None,
    clips: int = 6,
    commands: Sequence[str] | None = None,
) -> Path:
    """Write `report/index.html` to `folder` and return its path.

    If `run_dir` is a run folder, the report shows its recipe and training curves. `clips` is the number of
    clips with audio in the report. `commands` are the commands that reproduce the report; by default they are
    derived from the run folder.

    Raises SymlinkError if `report`, or `audio` in it, is a symbolic link.
    """
    report = path_without_links(Path(folder), "report")
    report.mkdir(parents=True, exist_ok=True)
    run = None if run_dir is None else Path(run_dir)
    samples = _samples(evaluation, clips, report)
    page = _page(evaluation, samples, run, _commands(run) if commands is None else commands)
    write_atomically(report / "index.html", page)
    return report / "index.html"


def _page(
    evaluation: Evaluation, samples: Sequence[Sample], run: Path | None, commands: Sequence[str]
) -> str:
    style = importlib.resources.files("codecvq.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    recipe = _text_of(run / "recipe.yaml") if run else ""
    body = [
        sections.header(evaluation),
        sections.quality(evaluation),
        sections.bitrates(evaluation),
        sections.listening(samples, evaluation),
        sections.groups(evaluation),
        sections.codebooks(evaluation.bitrate.codebooks),
        sections.training(read_log(run / METRICS_FILE)) if run else "",
        sections.all_clips(evaluation),
        sections.provenance(evaluation, recipe, commands),
    ]
    name = sections.text(evaluation.codec["name"])
    version = sections.text(evaluation.versions.get("codecvq", ""))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{name} – codec report</title><style>{style}</style></head>\n'
        f"<body><main>{chr(10).join(part for part in body if part)}"
        f"<footer class='note'>Written by codecvq {version}.</footer>"
        "</main></body></html>\n"
    )


def _commands(run: Path | None) -> list[str]:
    """Return the commands that reproduce the report of a run folder."""
    if run is None:
        return []
    folder = shlex.quote(str(run))
    train = (
        [f"codecvq train {shlex.quote(str(run / 'recipe.yaml'))}"] if (run / "recipe.yaml").is_file() else []
    )
    return [*train, f"codecvq evaluate {folder}"]


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _samples(evaluation: Evaluation, clips: int, report: Path) -> list[Sample]:
    """Return the clips with audio, embedded in the page, or in files next to it if they are too large."""
    selected = _select_clips(evaluation, clips)
    pictures, files = [], []
    for row, _ in selected:
        paths = evaluation.audio(row)
        assert paths is not None, "only clips with audio are selected"
        sounds = [read_audio(path) for path in paths]
        original, decoded = (to_mono(sound.samples) for sound in sounds)
        pictures.append(_data_uri("image/png", spectrogram_pair(original, decoded, sounds[0].sample_rate)))
        files.append(paths)
    size = sum(len(picture) for picture in pictures) + sum(
        path.stat().st_size * 4 // 3 for pair in files for path in pair
    )
    embed = size <= EMBED_BYTES
    return [
        Sample(
            row, rank, _audio_address(first, report, embed), _audio_address(second, report, embed), picture
        )
        for (row, rank), (first, second), picture in zip(selected, files, pictures, strict=True)
    ]


def _select_clips(evaluation: Evaluation, clips: int) -> list[tuple[ClipRow, str]]:
    """Select clips with audio at even distances in the ranking by the first metric with values.

    Sorted from worst to best.
    """
    candidates = [row for row in evaluation.rows if _has_audio(evaluation, row)]
    column = next((c for c in evaluation.columns if any(c.name in row.values for row in candidates)), None)
    if column is not None:
        sign = 1 if column.higher_is_better else -1
        name = column.name  # a separate variable for mypy: in a lambda, `column` may be None
        candidates = sorted(
            (row for row in candidates if name in row.values), key=lambda row: sign * row.values[name]
        )
    count = min(max(clips, 0), len(candidates))
    places = [round(i * (len(candidates) - 1) / max(1, count - 1)) for i in range(count)]
    by = f" by {column.name}, worst first" if column else ""
    return [(candidates[place], f"{place + 1} of {len(candidates)}{by}") for place in places]


def _has_audio(evaluation: Evaluation, row: ClipRow) -> bool:
    paths = evaluation.audio(row)
    return paths is not None and all(path.is_file() for path in paths)


def _audio_address(path: Path, report: Path, embed: bool) -> str:
    if embed:
        return _data_uri("audio/flac", path.read_bytes())
    folder = path_without_links(report, "audio")
    folder.mkdir(exist_ok=True)
    with atomic_file(folder / path.name) as temporary:
        shutil.copyfile(path, temporary)
    return f"audio/{quote(path.name)}"


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
