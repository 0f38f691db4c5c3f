"""Curves of a training and bars that compare models, as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wentu.formats import write_atomic
from wentu.language import pick
from wentu.report.style import BLUE, INK, LINE, ORANGE, PAPER, QUIET, chinese_font, clean
from wentu.retrieval import KS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARS = {"start": "#c3ccd6", "champion": "#7c93ad", "candidate": BLUE}
OTHER_BARS = (ORANGE, "#3d8f6f", "#8a63b0", "#b08a2e", "#3a9db1", "#b9527a")


def plot_loss(history: list[dict[str, float]], path: Path) -> None:
    """Write a PNG of the training loss by epoch.

    Each row of ``history`` has ``epoch`` and, where known, ``loss``; values that are absent or not
    finite are left out.
    """
    figure = _figure(6, 3.9)
    axes = figure.subplots()
    _style(axes, pick("Training loss", "训练损失"), pick("epoch", "轮次"))
    _draw_loss(axes, *_points(history, "loss"))
    _frame(axes, history)
    _save(figure, path)


def plot_recall(history: list[dict[str, float]], path: Path) -> None:
    """Write a PNG of the recall on valid by epoch, the best epoch marked, in-batch accuracy beside.

    Each row of ``history`` has ``epoch`` and, where known, ``recall`` (mean recall on valid, 0..1)
    and ``in_batch_accuracy``; epoch 0 is the model before training, which has no accuracy.
    """
    figure = _figure(6, 3.9)
    axes = figure.subplots()
    _style(axes, pick("Mean recall on valid", "验证集平均召回率"), pick("epoch", "轮次"))
    recall, accuracy = _points(history, "recall"), _points(history, "in_batch_accuracy")
    _draw_accuracy(axes, *accuracy)
    _draw_recall(axes, *recall, others=accuracy[1])
    _frame(axes, history)
    _save(figure, path)


def _frame(axes: Axes, history: list[dict[str, float]]) -> None:
    """Both plots of a training span the same epochs."""
    epochs = [row["epoch"] for row in history] or [0.0]
    margin = 0.04 * (max(epochs) - min(epochs)) or 0.5
    axes.set_xlim(min(epochs) - margin, max(epochs) + margin)


def plot_recall_bars(results: dict[str, dict[str, float]], path: Path) -> None:
    """Write a PNG that compares models: grouped bars of R@1, R@5, R@10 in both directions.

    ``results`` maps a name ("start", "champion", "candidate", or any other, drawn in this
    order) to the figures of ``retrieval.summarize``.
    """
    figure = _figure(10 + 1.2 * max(0, len(results) - 3), 4.3)
    directions = {
        "text_to_image": pick("Text → picture", "以文搜图"),
        "image_to_text": pick("Picture → text", "以图搜文"),
    }
    for axes, (key, title) in zip(
        figure.subplots(1, 2, sharey=True), directions.items(), strict=True
    ):
        _style(axes, title, "")
        _draw_bars(
            axes, {name: [row[f"{key}/recall@{k}"] for k in KS] for name, row in results.items()}
        )
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            labelcolor=INK,
            prop={"family": _family(), "size": 10},
            handlelength=1.0,
            handleheight=1.0,
        )
    _save(figure, path)


def plot_calibration(
    curve: Sequence[Mapping[str, float]], names: Mapping[str, str], limit: float, path: Path
) -> None:
    """Write a PNG of shares (0..1) by limit, and where the limit was set.

    Each row of ``curve`` has ``limit`` and the keys of ``names``, which is key -> label.
    """
    from matplotlib.ticker import PercentFormatter

    figure = _figure(7, 4.1)
    axes = figure.subplots()
    _style(
        axes, pick("What counts as found", "何为“找到”"), pick("limit (deviations)", "阈值(标准差)")
    )
    at = [row["limit"] for row in curve]
    for (key, label), colour in zip(names.items(), (ORANGE, BLUE, QUIET), strict=False):
        axes.plot(at, [row[key] for row in curve], color=colour, linewidth=1.8, label=label)
    axes.axvline(limit, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(-0.02, 1.02)
    axes.legend(prop={"family": _family(), "size": 9.5}, frameon=False)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that pyplot never hears of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.06)
    figure = Figure(figsize=(width, height), dpi=150, layout=layout, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # equal input, equal bytes
    write_atomic(path, buffer.getvalue())


def _family() -> str:
    """The family name of the Chinese font, made known to matplotlib once."""
    from matplotlib.font_manager import FontProperties, fontManager

    path = str(chinese_font())
    if all(entry.fname != path for entry in fontManager.ttflist):
        fontManager.addfont(path)
    return FontProperties(fname=path).get_name()


def _style(axes: Axes, title: str, below: str) -> None:
    family = _family()
    axes.set_title(title, loc="left", family=family, fontsize=12.5, color=INK, pad=12)
    axes.set_xlabel(below, family=family, fontsize=10, color=QUIET)
    axes.tick_params(length=0, pad=6, labelsize=9.5, labelcolor=QUIET, labelfontfamily=family)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#aab4bf")


def _points(history: list[dict[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Epochs and finite values of one key, by epoch."""
    pairs = sorted((row["epoch"], row[key]) for row in history if key in row)
    finite = [(epoch, value) for epoch, value in pairs if math.isfinite(value)]
    return [epoch for epoch, _ in finite], [value for _, value in finite]


def _line(axes: Axes, epochs: list[float], values: list[float], colour: str) -> None:
    from matplotlib.ticker import MaxNLocator

    steps = [1, 2, 5, 10]
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=steps))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=steps))
    if not values:
        axes.set_yticks([])
        axes.text(
            0.5,
            0.5,
            pick("nothing recorded yet", "暂无记录"),
            color=QUIET,
            family=_family(),
            ha="center",
            va="center",
            transform=axes.transAxes,
        )
        return
    axes.plot(
        epochs,
        values,
        color=colour,
        linewidth=2.2,
        solid_capstyle="round",
        marker="o",
        markersize=0 if len(values) > 30 else 4.5,
        clip_on=False,
        zorder=2.6,
    )


def _draw_loss(axes: Axes, epochs: list[float], values: list[float]) -> None:
    _line(axes, epochs, values, ORANGE)
    if values:
        axes.set_ylim(min(0.0, *values), 1.12 * max(values) if max(values) > 0 else 1.0)


def _draw_accuracy(axes: Axes, epochs: list[float], values: list[float]) -> None:
    """What other tools log: right within its batch. Easy in a small one, so it stands back."""
    if not values:
        return
    axes.plot(epochs, values, color=BARS["start"], linewidth=1.6, zorder=1.6)
    # In the corner opposite to the title: both curves end at about the same place.
    axes.annotate(
        pick("grey: right within its batch", "灰线：批内准确率"),
        (1, 1),
        xycoords="axes fraction",
        xytext=(0, 13),
        textcoords="offset points",
        ha="right",
        va="bottom",
        family=_family(),
        fontsize=9,
        color=QUIET,
    )


def _draw_recall(axes: Axes, epochs: list[float], values: list[float], others: list[float]) -> None:
    from matplotlib.ticker import PercentFormatter

    _line(axes, epochs, values, BLUE)
    if not values:
        return
    high = max(values)
    spread = [*values, *others]
    room = max(max(spread) - min(spread), 0.04)
    axes.set_ylim(max(0.0, min(spread) - 0.2 * room), max(spread) + 0.25 * room)
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 1.0 + 1e-9])
    axes.set_ylim(max(0.0, min(spread) - 0.2 * room), max(spread) + 0.25 * room)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if room > 0.06 else 1))
    if epochs[0] == 0 and len(values) > 1:
        _mark_start(axes, epochs[-1], values)
    best = values.index(high)
    axes.plot(
        epochs[best],
        high,
        "o",
        color=BLUE,
        markersize=10,
        markeredgecolor=PAPER,
        markeredgewidth=1.5,
        clip_on=False,
        zorder=3,
    )
    where = (epochs[best] - epochs[0]) / ((epochs[-1] - epochs[0]) or 1)
    axes.annotate(
        pick(
            f"best: epoch {epochs[best]:g}, {high:.1%}",
            f"最佳：第 {epochs[best]:g} 轮，{high:.1%}",
        ),
        (epochs[best], high),
        xytext=(0, 10),
        textcoords="offset points",
        ha="center" if len(values) == 1 else "left" if where < 0.2 else "right",
        family=_family(),
        fontsize=10,
        color=INK,
    )


def _mark_start(axes: Axes, right: float, values: list[float]) -> None:
    """A dashed line at the recall before training, with its words on the side left free."""
    start, rest = values[0], values[1:]
    # Below the line where the curve runs above it, unless that is where the axis has its numbers.
    below = sum(rest) / len(rest) >= start > 0.12 * max(values)
    axes.axhline(start, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    axes.annotate(
        pick(f"before training {start:.1%}", f"训练前 {start:.1%}"),
        (right, start),
        xytext=(0, -5 if below else 4),
        textcoords="offset points",
        ha="right",
        va="top" if below else "bottom",
        family=_family(),
        fontsize=9,
        color=QUIET,
    )


def _draw_bars(axes: Axes, recalls: dict[str, list[float]]) -> None:
    from matplotlib.ticker import PercentFormatter

    known = {
        "start": pick("starting weights", "起始权重"),
        "champion": pick("champion (in use)", "现用模型"),
        "candidate": pick("candidate (new)", "候选新模型"),
    }
    spare = iter(OTHER_BARS * (1 + len(recalls)))
    width = 0.8 / max(1, len(recalls))
    for number, (name, values) in enumerate(recalls.items()):
        shift = (number - (len(recalls) - 1) / 2) * width
        bars = axes.bar(
            [group + shift for group in range(len(KS))],
            values,
            width * 0.9,
            color=BARS.get(name) or next(spare),
            label=known.get(name, clean(name)),
        )
        labels = [f"{100 * value:.1f}".replace("100.0", "100") for value in values]
        axes.bar_label(bars, labels, padding=2.5, fontsize=8.5, color=INK, family=_family())
    highest = max((value for values in recalls.values() for value in values), default=1.0)
    axes.set_ylim(0, min(1.1, max(0.1, 1.2 * highest)))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 1.0])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xticks(range(len(KS)), [f"R@{k}" for k in KS])
