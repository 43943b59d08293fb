"""The picture of scripts/compare_gradients.py: seconds and multiplications of one update against
the number of layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gdext.benchmark.results import spread
from gdext.instruments.update_cost import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {
    "path_sum": ("path_sum: every path by itself", "#b2182b", "D"),
    "finite_difference": ("finite_difference", "#3d8b3d", "^"),
    "forward_mode": ("forward_mode: one pass per parameter", "#d9660a", "s"),
    "backprop": ("backprop: every result used again", "#1f5fa8", "o"),
}


def draw(new: type[Figure], results: dict[str, Any]) -> Figure:
    """``results``: the content of gradients.json."""
    figure = new(figsize=(9.6, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    fits = {engine: Fit(**fit) for engine, fit in results["fits"].items()}
    _seconds(left, results, fits)
    _multiplications(right, results)
    for axes in (left, right):
        axes.set(xlabel="layers L", yscale="log", xlim=(0, 1.22 * results["layers"]))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    lines: dict[str, Any] = {}
    for axes in (left, right):
        handles, labels = axes.get_legend_handles_labels()
        lines.update(zip(labels, handles, strict=True))
    names = [label for label, _, _ in STYLES.values()]
    names += [label for label in lines if label not in names]
    figure.legend(
        [lines[name] for name in names],
        names,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(_title(results["claims"]), fontsize=10.5)
    return figure


def _seconds(axes: Axes, results: dict[str, Any], fits: dict[str, Fit]) -> None:
    most = results["layers"]
    for engine, (label, color, marker) in STYLES.items():
        points = [p for p in results["points"] if p["engine"] == engine]
        middles = [spread(p["seconds"]) for p in points]
        low = [s.median - s.low for s in middles]
        high = [s.high - s.median for s in middles]
        L = [p["layers"] for p in points]
        axes.errorbar(
            L, [s.median for s in middles], (low, high), color=color, fmt=marker, markersize=4,
            capsize=2, label=label, zorder=3,
        )  # fmt: skip
        fit = fits[engine]
        if fit.last < most:
            beyond = range(fit.last, most + 1)
            axes.plot(beyond, [fit.seconds(n) for n in beyond], color=color, linestyle=":",
                      label="fit c L b^L, extrapolated: not measured")  # fmt: skip
            axes.annotate(
                _duration(fit.seconds(most)), (most, fit.seconds(most)), (5, 0),
                textcoords="offset points", ha="left", va="center", color=color, fontsize=9,
            )  # fmt: skip
    L = [1 + (most - 1) * i / 100 for i in range(101)]
    unit = fits["backprop"].factor
    axes.plot(
        L, [unit * n for n in L], color="0.45", linestyle="--", label="c L, c from backprop's fit"
    )
    axes.plot(L, [unit * math.exp(n) for n in L], color="0.45", linestyle="-.",
              label="c exp(L), the same c")  # fmt: skip
    axes.set(ylabel="seconds per update", title="Measured time (quartiles as bars)")


def _multiplications(axes: Axes, results: dict[str, Any]) -> None:
    for engine, (label, color, marker) in STYLES.items():
        formula = results["multiplications"][engine]
        axes.plot(range(1, len(formula) + 1), formula, color=color, linewidth=1,
                  label="cost formula" if engine == "backprop" else None)  # fmt: skip
        points = [p for p in results["points"] if p["engine"] == engine]
        axes.plot([p["layers"] for p in points], [p["multiplications"] for p in points],
                  marker, color=color, markersize=4, label=label)  # fmt: skip
    axes.set(ylabel="multiplications per update", title="Counted multiplications")


def _title(claims: dict[str, Any]) -> str:
    L = claims["layers"]
    return (
        f"One SGD update of an MLP of width {claims['width']}, one sample. At {L} layers: "
        f"exp({L})/{L} = {_number(claims['exp(L)/L'])};\npath_sum / backprop = "
        f"{_number(claims['path_sum/backprop, seconds by the fits'])} in seconds, by the fits, and "
        f"{_number(claims['path_sum/backprop, multiplications'])} in multiplications"
    )


def _number(value: float) -> str:
    value = float(f"{value:.3g}")
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:,.0f}"


def _duration(seconds: float) -> str:
    for unit, name in ((86400 * 365, "years"), (86400, "days"), (3600, "hours"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{_number(seconds / unit)} {name}"
    return f"{seconds:.3g} s"
