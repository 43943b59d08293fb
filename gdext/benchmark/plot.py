"""The picture of a result: time per training step against the batch size, for each network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gdext.benchmark.networks import FEATURED, find, of_device
from gdext.benchmark.results import Row, floor, spread
from gdext.benchmark.tables import label, rows_of
from gdext.training.report import optional

# Blue: gdext. Orange: PyTorch. Green: JAX.
STYLES: dict[str, dict[str, Any]] = {
    "fused": {"color": "#1f5fa8", "marker": "o", "linewidth": 2.2, "zorder": 3},
    "fused-step": {"color": "#1f5fa8", "marker": "o", "linestyle": ":", "fillstyle": "none"},
    "layers": {"color": "#7fb0e6", "marker": "s"},
    "layers-graph": {"color": "#7fb0e6", "marker": "v", "linestyle": "--"},
    "eager": {"color": "#d9660a", "marker": "s"},
    "compile": {"color": "#d9660a", "marker": "^", "linestyle": ":", "fillstyle": "none"},
    "graph": {"color": "#d9660a", "marker": "v", "linestyle": "--"},
    "jax-jit": {"color": "#3d8b3d", "marker": "^", "linestyle": ":", "fillstyle": "none"},
    "jax-scan": {"color": "#3d8b3d", "marker": "D"},
}


def draw(results: dict[str, Any], folder: Path) -> None:
    """Writes benchmark.png and benchmark.svg, if matplotlib and results of steps are there."""
    rows = rows_of(results, "steps")
    featured = of_device(results.get("device", "cpu"), FEATURED)
    groups = [name for name in featured if any(row.group == name for row in rows)]
    groups = groups or list(dict.fromkeys(row.group for row in rows))
    module = optional("matplotlib.figure", "matplotlib", "picture") if groups else None
    if module is None:
        return
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    figure = module.Figure(figsize=(4.6 * columns, 3.5 * lines + 0.5), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(groups) :]:
        axes.axis("off")
    for axes, group in zip(grid.flat, groups, strict=False):
        _panel(axes, group, [row for row in rows if row.group == group])
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        handles.update(
            {text: line for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        )
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False
    )
    for kind in ("png", "svg"):
        figure.savefig(folder / f"benchmark.{kind}", dpi=130)


def _panel(axes: Any, group: str, rows: list[Row]) -> None:
    rows = sorted(rows, key=lambda row: row.batch or 0)
    batches = [row.batch for row in rows]
    limits = [1e6 * floor(row).seconds for row in rows]
    axes.plot(batches, limits, color="0.35", linestyle="--", label="machine limit", zorder=1)
    for name, style in STYLES.items():
        points = [
            (row.batch, 1e6 * spread(row.times[name]).median) for row in rows if name in row.times
        ]
        if points:
            axes.plot(*zip(*points, strict=True), label=label(name), markersize=5, **style)
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="microseconds per step")
    axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,g}")
    network = find(group)
    axes.set_title(network.title if network else group, fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
