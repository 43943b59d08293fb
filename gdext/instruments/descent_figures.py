"""The pictures of scripts/compare_descent.py: trajectories, MNIST, and the noise of gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue: all samples. Orange: mini-batches. Green: one sample.
COLORS = {"gradient descent": "#1f5fa8", "mini-batches": "#d9660a", "one sample": "#3d8b3d"}
LINES = {"too small": ":", "right": "-", "too large": "--"}
WINDOW = ((-3.4, 4.6), (-5.4, 2.6))


def color(method: str) -> str:
    return next(value for name, value in COLORS.items() if method.startswith(name))


def trajectories(new: type[Figure], results: dict[str, Any]) -> Figure:
    """``results``: the content of descent.json, here and below."""
    problem = results["least_squares"]
    figure = new(figsize=(9.6, 4.1), layout="constrained")
    panels: Any = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, rate in zip(panels, LINES, strict=True):
        runs = [t for t in problem["trajectories"] if t["rate"] == rate]
        _contours(axes, problem)
        count = min(len(run["points"]) for run in runs)
        # Gradient descent, the first, is drawn on top.
        for order, run in enumerate(runs):
            axes.plot(
                *np.array(run["points"][:count]).T, ".-", color=color(run["method"]), markersize=3,
                linewidth=0.9, zorder=3 - order / 10, label=run["method"],
            )  # fmt: skip
        axes.plot(*problem["minimum"], "*", color="black", markersize=9, zorder=4, label="minimum")
        axes.set(xlim=WINDOW[0], ylim=WINDOW[1], xlabel="intercept p0 (units of v)")
        share = runs[0]["gamma"] / problem["largest_stable_rate"]
        axes.set_title(f"{rate}: learning rate {runs[0]['gamma']:.2g}\n"
                       f"({share:.3g} of the limit), {count - 1} updates", fontsize=10)  # fmt: skip
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("slope p1 (units of v / units of u)")
    limit = problem["largest_stable_rate"]
    figure.suptitle(
        f"Fitting a line to {problem['samples']} points by least squares, contours: C; gradient "
        f"descent converges below a learning rate of {limit:.3g}", fontsize=10.5,
    )  # fmt: skip
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def mnist(new: type[Figure], results: dict[str, Any]) -> Figure:
    runs, images = results["mnist"]["runs"], results["mnist"]["images"]
    figure = new(figsize=(9.6, 6.4), layout="constrained")
    (above, below) = figure.subplots(2, 3, sharey="row")
    scales = {
        "epochs (passes over all images)": lambda curve: [n / images for n in curve["samples"]],
        "samples seen": lambda curve: curve["samples"],
        "seconds of training": lambda curve: curve["seconds"],
    }
    for axes, (label, of) in zip(above, scales.items(), strict=True):
        for run in (run for run in runs if run["rate"] == "right"):
            _curve(axes, run, of(run["curve"]), run["method"], "-")
        axes.set(xlabel=label, title=f"loss against {label.split(' (')[0]}")
    names = dict.fromkeys(run["method"] for run in runs)
    for axes, name in zip(below, names, strict=True):
        for run in (run for run in runs if run["method"] == name):
            epochs = [n / images for n in run["curve"]["samples"]]
            label = f"{run['rate']}: {run['gamma']:g}"
            _curve(axes, run, epochs, label, LINES[run["rate"]])
        axes.set(xlabel="epochs (passes over all images)", title=f"learning rates: {name}")
    for axes in [*above, *below]:
        axes.set(xscale="log", yscale="log")
        axes.title.set_fontsize(10)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (above[0], *below):
        axes.legend(frameon=False, fontsize=8, loc="lower left")
    for axes in (above[0], below[0]):
        axes.set_ylabel("cross entropy, all images (nats)")
    figure.suptitle(f"{results['mnist']['network']} on {images:,} training images of "
                    f"{results['mnist']['source']}", fontsize=10.5)  # fmt: skip
    return figure


def noise(new: type[Figure], results: dict[str, Any]) -> Figure:
    figure = new(figsize=(9.6, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    found = results["least_squares"]["gradients"]
    left.plot(*np.array(found["each"]).T, ".", color=COLORS["one sample"], markersize=4, alpha=0.6,
              label=f"of one sample, each of {len(found['each'])}")  # fmt: skip
    left.plot(*found["mean"], "+", color="black", markersize=13, label="their mean")
    left.plot(*found["full"], "o", color=COLORS["gradient descent"], markersize=11,
              fillstyle="none", markeredgewidth=2, label="of all samples at once")  # fmt: skip
    left.set(xlabel="dC/dp0 (units of v)", ylabel="dC/dp1 (units of u v)")
    left.set_title("Gradients at the start of the line's fit", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    for measured, dark in zip(results["mnist"]["noise"], ("#7fb0e6", "#1f5fa8"), strict=True):
        sizes = [batch["batch_size"] for batch in measured["batches"]]
        when = (
            "before training" if measured["epochs"] == 0 else f"after {measured['epochs']} epochs"
        )
        right.plot(sizes, [b["expected"] for b in measured["batches"]], "-", color=dark,
                   label=f"{when}: by the formula")  # fmt: skip
        right.plot(sizes, [b["deviation"] for b in measured["batches"]], "o", color=dark,
                   label=f"{when}: measured")  # fmt: skip
    right.axhline(1, color="0.5", linestyle="--", linewidth=1, label="as large as the gradient")
    right.set(xscale="log", yscale="log", xlabel="batch size B (samples)")
    right.set_ylabel("deviation from the full gradient / its norm")
    right.set_title(f"Noise of MNIST's gradients, {results['mnist']['network']}", fontsize=10)
    right.yaxis.set_major_formatter("{x:g}")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _contours(axes: Axes, problem: dict[str, Any]) -> None:
    """Of C, a quadratic function of p: C* + (p - p*)^T H (p - p*) / 2."""
    p0, p1 = np.meshgrid(np.linspace(*WINDOW[0], 100), np.linspace(*WINDOW[1], 100))
    d = np.stack([p0 - problem["minimum"][0], p1 - problem["minimum"][1]])
    C = problem["least_cost"] + np.einsum("iyx,ij,jyx->yx", d, np.array(problem["hessian"]), d) / 2
    levels = problem["least_cost"] * np.array([1.1, 1.5, 2.5, 5, 10, 20, 40, 80, 160])
    lines = axes.contour(p0, p1, C, levels=levels, colors="0.7", linewidths=0.7)
    axes.clabel(lines, levels[3:], fmt="%.2g", fontsize=7)  # trajectories cover the others


def _curve(axes: Axes, run: dict[str, Any], x: list[float], label: str, line: str) -> None:
    """Without the start, which a logarithmic scale has no place for."""
    axes.plot(x[1:], run["curve"]["loss"][1:], line, color=color(run["method"]), label=label)
