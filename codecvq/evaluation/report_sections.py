"""The sections of the report as HTML strings; all external text is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codecvq.escaping import printable
from codecvq.evaluation.bitrate import CodebookStats
from codecvq.evaluation.charts import curve_svg
from codecvq.evaluation.interval import COVERAGE, RESAMPLES, Mean
from codecvq.evaluation.result import ClipRow, Column, Evaluation, format_value
from codecvq.evaluation.training_log import TrainingLog

MAX_CURVES = 12
MAX_GROUPS = 40
MAX_UNFOLDED = 4  # list lines shown without folding
MAX_LISTED = 50  # failures and undefined values in the report; the rest is in evaluation.json


@dataclass(frozen=True)
class Sample:
    """A clip with audio in the report."""

    row: ClipRow
    rank: str  # position in the ranking, as "3 of 20 by pesq_wb, worst first"
    original: str  # URL: a data URI, or a file next to the page
    decoded: str
    spectrograms: str


def text(value: object) -> str:
    """Escape a value for HTML text or an attribute; unprintable characters are written as escapes."""
    return html.escape(printable(str(value), keep="\n\t"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """Return a table of cells that are already HTML; the columns `numbers` are right-aligned."""
    right = set(numbers)

    def line(cells: Sequence[str], tag: str) -> str:
        marks = [
            (' class="n"' if i in right else ' class="key"' if i == 0 else "") for i in range(len(cells))
        ]
        return "<tr>" + "".join(f"<{tag}{m}>{c}</{tag}>" for m, c in zip(marks, cells, strict=True)) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    top = line([text(h) for h in head], "th")
    return f'<div class="wide"><table><thead>{top}</thead><tbody>{body}</tbody></table></div>'


def header(evaluation: Evaluation) -> str:
    """Name, summary of the codec, the most important values, and warnings."""
    codec, rate = evaluation.codec, evaluation.bitrate
    facts = [
        f"{rate.nominal_bps / 1000:.2f} kbit/s",
        f"{codec['sample_rate'] / 1000:g} kHz",
        f"{float(codec['sample_rate']) / codec['hop_length']:g} frames per second",
        f"{text(codec['num_codebooks'])} codebook{'s' if codec['num_codebooks'] != 1 else ''}",
        f"quantizer {text(codec['quantizer'].get('name', 'unknown'))}",
    ]
    tiles = [
        _tile(c, evaluation.means[c.name])
        for c in evaluation.columns
        if evaluation.means[c.name].value is not None
    ][:4]
    tiles.append(
        f'<div class="tile"><b>{rate.nominal_bps / 1000:.2f} <small>kbit/s</small></b>'
        '<span class="sub">nominal bit rate</span></div>'
    )
    minutes = rate.duration_s / 60
    length = f"{minutes:.1f} minutes" if minutes >= 1 else f"{rate.duration_s:.1f} seconds"
    return (
        f"<h1>{text(codec['name'])}</h1><p class='lead'>{' · '.join(facts)}</p>"
        f"<p class='lead'>Measured on {len(evaluation.rows)} clips, {length} of audio, "
        f"{text(_format_time(evaluation.created))}.</p>"
        f'<div class="tiles">{"".join(tiles)}</div>{_warnings(evaluation)}'
    )


def _format_time(created: str) -> str:
    """Return an ISO 8601 time in UTC as readable text."""
    return created.replace("T", " ").partition("+")[0][:16] + " UTC"


def _tile(column: Column, mean: Mean) -> str:
    assert mean.value is not None, "only metrics with a value have a tile"
    return (
        f'<div class="tile"><b>{format_value(mean.value, column.unit)} <small>{text(column.unit)}</small></b>'
        f'<span class="sub">{text(column.summary or column.name)}, n = {text(mean.n)}</span></div>'
    )


def _warnings(evaluation: Evaluation) -> str:
    """Warnings about clips and metrics that are not in the results; empty without any."""
    lines = [
        f"{text(name)} was not computed: {text(reason)}" for name, reason in evaluation.unavailable.items()
    ]
    if num_trained_on := len(evaluation.trained_on or ()):
        lines.insert(0, f"the codec was trained on {num_trained_on} of these {len(evaluation.rows)} clips")
    lines += [
        f"{text(f.clip)}: {text(f.metric or f.stage)} failed: {text(f.reason)}"
        for f in evaluation.failures[:MAX_LISTED]
    ]
    lines += [
        f"{text(u.clip)}: {text(u.metric)} is undefined: {text(u.reason)}"
        for u in evaluation.undefined[:MAX_LISTED]
    ]
    hidden = max(0, len(evaluation.failures) - MAX_LISTED) + max(0, len(evaluation.undefined) - MAX_LISTED)
    if not lines:
        return ""
    num_failed = int(evaluation.clips_given) - len(evaluation.rows)
    summary = (
        f"{num_failed} of {int(evaluation.clips_given)} clips could not be evaluated, "
        f"{len(evaluation.undefined)} values are undefined"
    )
    more = f"<p>{hidden} more in evaluation.json.</p>" if hidden else ""
    items = f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>{more}"
    if len(lines) > MAX_UNFOLDED:
        items = f"<details><summary>Details</summary>{items}</details>"
    return (
        f'<div class="warning"><strong>Incomplete results.</strong> {summary}; they are excluded from '
        f"the means.{items}</div>"
    )


def quality(evaluation: Evaluation) -> str:
    """Table of means with intervals."""
    rows = []
    for column in evaluation.columns:
        mean = evaluation.means[column.name]
        n = text(mean.n) if mean.n == len(evaluation.rows) else f"{text(mean.n)} of {len(evaluation.rows)}"
        better = "higher" if column.higher_is_better else "lower"
        origin = f"<span class='sub'><code>{text(column.name)}</code> {text(column.reference)}</span>"
        name = f"{text(column.summary or column.name)}{origin}"
        rows.append(
            [name, _value(mean.value, column), _interval(mean, column), text(column.unit) or "–", better, n]
        )
    return (
        "<h2>Quality</h2>"
        + table(["metric", "mean", "95 % interval", "unit", "better", "n"], rows, (1, 2, 5))
        + f"<p class='note'>The reference is each clip at the codec's sample rate, mono. The decoded clip is "
        f"compared without alignment (PESQ aligns by itself). "
        f"Intervals are percentile bootstraps over clips "
        f"({RESAMPLES:,} resamples, {COVERAGE:.0%}). Clips of one speaker are similar, so the intervals are "
        f"too narrow for other speakers.</p>"
    )


def _value(value: float | None, column: Column) -> str:
    return "–" if value is None else format_value(value, column.unit)


def _interval(mean: Mean, column: Column) -> str:
    return "–" if mean.low is None else f"{_value(mean.low, column)} – {_value(mean.high, column)}"


def bitrates(evaluation: Evaluation) -> str:
    """Table of bit rates, and the speed."""
    rate = evaluation.bitrate
    measured = (
        ("Nominal", rate.nominal_bps, "frames per second × Σ log<sub>2</sub> K"),
        (
            "Entropy of the codes",
            rate.entropy_bps,
            "frequencies of the codes in these clips, ignoring their order; not the rate of a file",
        ),
        (
            "Entropy, Miller–Madow",
            rate.corrected_entropy_bps,
            "the same, corrected for a small number of frames; at most log<sub>2</sub> K",
        ),
        (
            "<code>.cvq</code> payload, packed",
            rate.packed_payload_bps,
            "codes in files, without headers",
        ),
        (
            "<code>.cvq</code> payload, entropy-coded",
            rate.entropy_payload_bps,
            f"the same codes, each clip coded separately, {_entropy_coding(rate.table_share)}",
        ),
        ("<code>.cvq</code> file, packed", rate.packed_file_bps, "all bytes on disk, one file per clip"),
        (
            "<code>.cvq</code> file, entropy-coded",
            rate.entropy_file_bps,
            "all bytes on disk, one file per clip",
        ),
    )
    rows = [
        [name, f"{bps / 1000:.3f}", description] for name, bps, description in measured if bps is not None
    ]
    machine = evaluation.machine
    threads = f"{text(machine.threads)} thread{'s' if machine.threads != 1 else ''}"
    return (
        "<h2>Bit rate and speed</h2>"
        + table(["rate", "kbit/s", "description"], rows, (1,))
        + f"<p class='note'>{rate.frames:,} frames in {rate.duration_s:.1f} s. The last frame of a clip is "
        f"padded, so the rate of short files is higher than the nominal rate.</p>"
        f"<p>Encoding takes {_speed(evaluation.encode_rtf)}, decoding {_speed(evaluation.decode_rtf)}, "
        f"clip by clip, on {text(machine.processor)} ({text(machine.device)}, {threads}).</p>"
    )


def _entropy_coding(table_share: float | None) -> str:
    """Return how the entropy-coded files are coded, as text."""
    if not table_share:
        return "with adaptive models"
    return f"with the code tables of the codec in {100 * table_share:.0f} % of the clips"


def _speed(factor: float) -> str:
    return (
        f"{factor:.4f} s per second of audio ({1 / factor:,.0f} times real time)"
        if factor > 0
        else "no measurable time"
    )


def codebooks(stats: Sequence[CodebookStats]) -> str:
    """Table of codebook statistics."""
    rows = []
    for index, book in enumerate(stats):
        reachable = min(book.size, book.frames) or 1
        rows.append([
            str(index), f"{book.size:,}", _bar(book.used / reachable, f"{book.used:,}"),
            _bar(book.perplexity / book.size, f"{book.perplexity:,.1f}"), f"{book.entropy_bits:.2f}",
        ])  # fmt: skip
    frames = max((book.frames for book in stats), default=0)
    few = any(book.frames < book.size for book in stats)
    note = (
        " There are fewer frames than entries, so the share of used entries is relative to the frames."
        if few
        else ""
    )
    return (
        "<h2>Codebooks</h2>"
        + table(["codebook", "size K", "entries used", "perplexity", "entropy, bits"], rows, (1, 4))
        + f"<p class='note'>Counted over {frames:,} frames of the test clips. A perplexity of K means "
        f"uniform use of all entries.{note}</p>"
    )


def _bar(share: float, label: str) -> str:
    return (
        f'<span class="bar"><i style="--share:{100 * min(1.0, share):.1f}%"></i>{label} ({share:.0%})</span>'
    )


def listening(samples: Sequence[Sample], evaluation: Evaluation) -> str:
    """Audio players and spectrograms."""
    if not samples:
        return "<h2>Listen</h2><p>This evaluation has no audio.</p>"
    return (
        "<h2>Listen</h2><p class='note'>The clips are at even distances in the ranking, including the "
        "worst and the best. The spectrograms of a pair have the same color scale.</p>"
        + "".join(_clip(sample, evaluation) for sample in samples)
    )


def _clip(sample: Sample, evaluation: Evaluation) -> str:
    row = sample.row
    about = [part for part in (row.speaker, row.language, f"{row.duration_s:.1f} s", sample.rank) if part]
    values = [
        f"{text(c.name)} {format_value(row.values[c.name], c.unit)} {text(c.unit)}".strip()
        for c in evaluation.columns
        if c.name in row.values
    ]
    quote = f"<blockquote>{text(row.text)}</blockquote>" if row.text else ""
    players = "".join(
        f"<figure><figcaption>{name}</figcaption>"
        f'<audio controls preload="metadata" aria-label="{text(row.id)}, {name}" '
        f'src="{text(source)}"></audio></figure>'
        for name, source in (("original", sample.original), ("decoded", sample.decoded))
    )
    return (
        f'<section class="clip"><h3>{text(row.id)}</h3>'
        f'<span class="sub">{text(" · ".join(about))}</span>{quote}'
        f'<div class="players">{players}</div>'
        f'<div class="wide"><img src="{text(sample.spectrograms)}" '
        f'alt="Spectrograms of {text(row.id)}: original above, decoded below"></div>'
        f'<p class="note">{" · ".join(values)}</p></section>'
    )


def groups(evaluation: Evaluation) -> str:
    """Means by speaker and by language; empty without groups."""
    parts = []
    for kind, group_means in evaluation.groups.items():
        if not group_means:
            continue
        shown = list(group_means.items())[:MAX_GROUPS]
        rows = [
            [text(name) or "unknown", str(sum(getattr(row, kind) == name for row in evaluation.rows))]
            + [_group_value(means[c.name], c, name, kind, evaluation) for c in evaluation.columns]
            for name, means in shown
        ]
        head = [kind, "clips", *(c.name for c in evaluation.columns)]
        more = (
            f"<p class='note'>{len(group_means) - len(shown)} more in evaluation.json.</p>"
            if len(group_means) > len(shown)
            else ""
        )
        parts.append(f"<h2>By {kind}</h2>" + table(head, rows, range(1, len(head))) + more)
    return "".join(parts)


def _group_value(mean: Mean, column: Column, group: str, kind: str, evaluation: Evaluation) -> str:
    """A mean, with n if it differs from the number of clips of the group."""
    clips = sum(getattr(row, kind) == group for row in evaluation.rows)
    few = f"<span class='sub'>n = {text(mean.n)}</span>" if mean.n != clips else ""
    return _value(mean.value, column) + few


def training(log: TrainingLog) -> str:
    """Training curves."""
    if not log.curves:
        return ""
    figures = "".join(
        f"<figure><figcaption><code>{text(curve.name)}</code><span class='sub'>{curve.values[-1]:.4g}"
        f"{f', {curve.num_excluded} not finite' if curve.num_excluded else ''}</span></figcaption>"
        f"{curve_svg(curve)}</figure>"
        for curve in log.curves[:MAX_CURVES]
    )
    notes = [
        "Faint: logged values. Strong: moving average over 1/20 of the curve. The number is the last value."
    ]
    if hidden := [text(curve.name) for curve in log.curves[MAX_CURVES:]]:
        notes.append(f"Not shown, in metrics.jsonl: {', '.join(hidden)}.")
    if log.damaged_lines:
        notes.append(f"Lines of metrics.jsonl that could not be read: {log.damaged_lines}.")
    return f'<h2>Training</h2><div class="curves">{figures}</div><p class="note">{" ".join(notes)}</p>'


def all_clips(evaluation: Evaluation) -> str:
    """Folded table with the values of every clip."""
    rows = [
        [text(row.id), text(row.speaker) or "–", f"{row.duration_s:.2f}"]
        + [
            format_value(row.values[c.name], c.unit) if c.name in row.values else "undefined"
            for c in evaluation.columns
        ]
        for row in evaluation.rows
    ]
    head = ["clip", "speaker", "seconds", *(c.name for c in evaluation.columns)]
    clips = table(head, rows, range(2, len(head)))
    return f"<h2>All clips</h2><details><summary>{len(rows)} clips</summary>{clips}</details>"


def provenance(evaluation: Evaluation, recipe: str, commands: Sequence[str]) -> str:
    """Codec, versions, machine, recipe, and the commands that reproduce the report."""
    machine = evaluation.machine
    facts: dict[str, Any] = {
        **_flat(evaluation.codec),
        "processor": machine.processor,
        "device": machine.device,
    }  # Any: printed
    facts |= {"system": f"{machine.system}, Python {machine.python}"}
    facts |= {f"{name} version": version for name, version in evaluation.versions.items()}
    identity = table(["", ""], [[text(name), f"<code>{text(value)}</code>"] for name, value in facts.items()])
    parts = [f"<h2>Codec and environment</h2>{identity}"]
    if recipe:
        parts.append(f"<details><summary>Resolved recipe</summary><pre>{text(recipe)}</pre></details>")
    if commands:
        parts.append(f"<h3>Reproduce</h3><pre>{text(chr(10).join(commands))}</pre>")
    return "".join(parts)


def _flat(mapping: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON
    """Flatten nested mappings: {"a": {"b": 1}} -> {"a b": 1}. Skips empty values."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        name = str(key).replace("_", " ")
        flat |= (
            {f"{name} {k}": v for k, v in _flat(value).items()}
            if isinstance(value, Mapping)
            else {name: value}
        )
    return {key: value for key, value in flat.items() if value not in ("", None)}
