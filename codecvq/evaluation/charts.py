"""Charts of a report: spectrogram pairs as PNG, and curves as SVG that is styled by the page."""

from __future__ import annotations

import html
import io
import math

import numpy as np

from codecvq.escaping import printable
from codecvq.evaluation.training_log import Curve

AXIS_COLOR = "#808080"  # axes of a PNG; readable on light and dark pages
DYNAMIC_RANGE_DB = 80.0
COLORS = 40  # steps of 2 dB: looks like 256 colors in a third of the bytes
WINDOW_S = 0.032
MAX_POINTS = 300  # per curve; more points are averaged

WIDTH, HEIGHT = 340, 170  # of a curve, in units of the SVG
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 22


def spectrogram_pair(original: np.ndarray, decoded: np.ndarray, sample_rate: int) -> bytes:
    """Return a PNG with the spectrograms of the original (top) and the decoded signal on one color scale.

    Shapes: both `[S]`, S > 0. The scale covers the 80 dB below the loudest bin of the original.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # ignore a matplotlibrc in the working folder
        return _render(original, decoded, sample_rate)


def _render(original: np.ndarray, decoded: np.ndarray, sample_rate: int) -> bytes:
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    levels = [_levels_db(signal, sample_rate) for signal in (original, decoded)]
    top_db = float(levels[0].max())
    # Figure without pyplot: no window system, no global state. The background is transparent for light and
    # dark pages.
    figure = Figure(figsize=(8.8, 4.0), dpi=100, facecolor="none", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1, sharex=True, sharey=True)
    extent = (0.0, original.size / sample_rate, 0.0, sample_rate / 2000)
    image = None
    colors = colormaps["magma"].resampled(COLORS)
    for axis, level, name in zip(axes, levels, ("original", "decoded"), strict=True):
        image = axis.imshow(
            level.T, origin="lower", aspect="auto", extent=extent, cmap=colors, interpolation_stage="data",
            vmin=top_db - DYNAMIC_RANGE_DB, vmax=top_db,
        )  # fmt: skip
        axis.set_ylabel(f"{name}\nkHz", color=AXIS_COLOR)
        axis.tick_params(colors=AXIS_COLOR)
        axis.spines[:].set_visible(False)
    axes[-1].set_xlabel("s", color=AXIS_COLOR)
    assert image is not None, "two panels were drawn"
    bar = figure.colorbar(image, ax=list(axes), pad=0.01, fraction=0.03)
    bar.set_label("dBFS", color=AXIS_COLOR)
    bar.ax.tick_params(colors=AXIS_COLOR)
    bar.outline.set_visible(False)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _levels_db(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return levels `[frames, bins]` with a 32 ms Hann window; a full-scale sine has 0 dB.

    There are at most about 880 frames.
    """
    window = 2 * round(WINDOW_S * sample_rate / 2)
    hop = max(window // 8, signal.size // 880, 1)
    hann = np.hanning(window)
    padded = np.pad(signal.astype(np.float64), (window // 2, window))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[: signal.size : hop] * hann
    return 20 * np.log10(np.abs(np.fft.rfft(frames, axis=-1)) * 2 / hann.sum() + 1e-7)


def curve_svg(curve: Curve) -> str:
    """Return an `<svg>` of a curve: the points in a faint line, their moving average in a strong line."""
    steps, values = _downsample(
        np.asarray(curve.steps, dtype=np.float64), np.asarray(curve.values, dtype=np.float64)
    )
    marks = ticks(float(values.min()), float(values.max()))
    low, high = min(marks[0], float(values.min())), max(marks[-1], float(values.max()))
    first, last = float(steps[0]), float(steps[-1])
    x = LEFT + (steps - first) / (last - first) * (WIDTH - LEFT - RIGHT)
    y = _height(values, low, high)
    grid = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{h:.1f}" y2="{h:.1f}" class="grid"/>'
        f'<text x="{LEFT - 6}" y="{h + 3.5:.1f}" text-anchor="end">{format_tick(tick)}</text>'
        for tick in marks
        for h in [float(_height(np.asarray(tick), low, high))]
    )
    foot = HEIGHT - 6
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(printable(curve.name))}, '
        f'{values[0]:.4g} to {values[-1]:.4g}">{grid}'
        f'<polyline class="raw" points="{_points(x, y)}"/>'
        f'<polyline class="smooth" points="{_points(x, _height(_smooth(values), low, high))}"/>'
        f'<text x="{LEFT}" y="{foot}">step {first:.0f}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{foot}" text-anchor="end">{last:.0f}</text></svg>'
    )


def _downsample(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most MAX_POINTS points, each the mean of neighbors; keeps the first and last steps."""
    if steps.size <= MAX_POINTS:
        return steps, values
    parts = np.array_split(np.arange(steps.size), MAX_POINTS)
    downsampled = np.array([steps[part].mean() for part in parts])
    downsampled[0], downsampled[-1] = steps[0], steps[-1]
    return downsampled, np.array([values[part].mean() for part in parts])


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the moving average over 1/20 of the curve.

    The window is narrower at the ends but stays symmetric, so that it does not bend a slope.
    """
    widest = max(1, values.size // 40) if values.size > 20 else 0
    total = np.concatenate(([0.0], np.cumsum(values)))
    at = np.arange(values.size)
    half = np.minimum(widest, np.minimum(at, values.size - 1 - at))
    start, stop = at - half, at + half + 1
    return (total[stop] - total[start]) / (stop - start)


def ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers that span the values."""
    span = high - low or abs(high) or 1.0
    unit = 10 ** math.floor(math.log10(span / 3))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if span / (factor * unit) <= 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def format_tick(number: float) -> str:
    """Return a round number as short text: 0.00025 as 2.5e-4."""
    mantissa, _, exponent = f"{number:.3e}".partition("e")
    power = int(exponent)
    return f"{number:g}" if -3 < power < 5 or not number else f"{float(mantissa):g}e{power}"


def _height(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return TOP + (high - values) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
