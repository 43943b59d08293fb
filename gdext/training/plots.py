"""The pictures of a finished run: curves, confusion matrix, worst mistakes, first-layer weights."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gdext.training.dataset import Split
from gdext.training.engine import Engine
from gdext.training.loop import loss_per_sample, outputs_of
from gdext.training.output import write_atomically
from gdext.training.report import optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE = "#1f5fa8", "#d9660a"


def draw_all(
    folder: Path,
    engine: Engine,
    test: Split,
    history: list[dict[str, float]],
    options: Namespace,
) -> None:
    """Writes curves.png, confusion.png, mistakes.png and weights.png, if matplotlib is there."""
    module = optional("matplotlib.figure", "matplotlib", "plots")
    if module is None:
        return
    outputs, labels = outputs_of(engine.model, test.inputs), test.labels.cpu()
    first = next(engine.model.parameters()).detach().double().cpu()
    figures = {
        "curves.png": curves(module.Figure, history, options.loss),
        "confusion.png": confusion(module.Figure, outputs.argmax(dim=1), labels),
        "mistakes.png": mistakes(module.Figure, test.images, outputs, labels, options.loss),
        "weights.png": weights(module.Figure, first),
    }
    for name, figure in figures.items():
        write_atomically(folder / name, partial(figure.savefig, format="png", dpi=130))


def curves(new: type[Figure], history: list[dict[str, float]], loss: str) -> Figure:
    figure = new(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    unit = {"cross_entropy": "cross entropy (nats per image)", "mse": "mean squared error"}[loss]
    left.plot(epochs, [r["train_loss"] for r in history], "o-", color=BLUE, label="training")
    left.plot(epochs, [r["test_loss"] for r in history], "s--", color=ORANGE, label="test")
    left.set(xlabel="epoch", ylabel=unit, title="Loss", yscale="log")
    left.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("")
    left.legend(frameon=False)
    errors = [100 * (1 - r["test_accuracy"]) for r in history]
    right.plot(epochs, errors, "s-", color=ORANGE)
    right.annotate(
        f"{errors[-1]:.2f}%",
        (epochs[-1], errors[-1]),
        (0, -18),
        textcoords="offset points",
        ha="right",
        fontweight="bold",
    )
    right.set(xlabel="epoch", ylabel="misclassified test images (%)", title="Test error")
    right.set_ylim(bottom=0, top=1.15 * max(errors) or 1)
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(epochs[0] - 0.2, epochs[-1] + 0.2)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    return figure


def confusion(new: type[Figure], predicted: Tensor, labels: Tensor) -> Figure:
    """Counts [10, 10], row = true class; coloured by the share of the true class, so that the few
    mistakes show and the diagonal does not drown them."""
    counts = torch.bincount(labels * 10 + predicted, minlength=100).view(10, 10)
    mistakes = counts.clone().fill_diagonal_(0)
    share = 100 * mistakes / counts.sum(dim=1, keepdim=True).clamp(min=1)
    figure = new(figsize=(7.4, 6.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share.numpy(), cmap="Oranges", vmin=0, vmax=max(float(share.max()), 0.1))
    figure.colorbar(image, label="mistakes, % of the true digit's images", shrink=0.85)
    pale = 0.6 * float(share.max())
    for row in range(10):
        for column in range(10):
            count = int(counts[row, column])
            style: dict[str, Any] = {"color": "white" if share[row, column] > pale else "black"}
            if row == column:
                style = {"color": BLUE, "fontweight": "bold"}
            elif count == 0:
                style = {"color": "0.7"}
            text = str(count) if count else "·"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, **style)
    total, wrong = int(counts.sum()), int(mistakes.sum())
    axes.set(
        xticks=range(10),
        yticks=range(10),
        xlabel="predicted digit",
        ylabel="true digit",
        title=f"Test images: {total - wrong:,} of {total:,} right ({1 - wrong / total:.2%})",
    )
    axes.tick_params(length=0)
    return figure


def mistakes(
    new: type[Figure], images: Tensor, outputs: Tensor, labels: Tensor, loss: str
) -> Figure:
    """The misclassified test images of the highest loss, at most 25."""
    predicted = outputs.argmax(dim=1)
    losses = loss_per_sample(outputs, labels, loss)
    wrong = (predicted != labels).nonzero().flatten()
    worst = wrong[losses[wrong].argsort(descending=True)][:25].tolist()
    figure = new(figsize=(9, 10.2), layout="constrained")
    if loss == "cross_entropy":
        scores, kind = outputs.softmax(dim=1), "probability"
    else:
        scores, kind = outputs, "output"
    figure.suptitle(
        f"The {len(worst)} worst of {len(wrong)} misclassified test images\n"
        f"({kind} the network gave to its prediction and to the true digit)",
        fontsize=12,
    )
    grid: Any = figure.subplots(5, 5)
    for axes in grid.flat:
        axes.axis("off")
    for axes, i in zip(grid.flat, worst, strict=False):
        guess, truth = int(predicted[i]), int(labels[i])
        axes.imshow(images[i].numpy(), cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(
            f"predicted {guess}: {_score(scores[i, guess], loss)}\n"
            f"true {truth}: {_score(scores[i, truth], loss)}",
            fontsize=9,
            pad=2,
        )
    return figure


def weights(new: type[Figure], first: Tensor) -> Figure:
    """The rows of the first weight matrix [O, 784] as images, the 64 of the largest norm."""
    norms = first.norm(dim=1)
    top = norms.argsort(descending=True)[:64]
    columns = 8
    rows = -(-len(top) // columns)
    limit = float(first[top].abs().quantile(0.999))
    figure = new(figsize=(9, 1.06 * rows + 1.3), layout="constrained")
    figure.suptitle(
        f"First layer: weights into the {len(top)} units of largest norm, of {len(first)}\n"
        "(number: the norm)",
        fontsize=12,
    )
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, unit in zip(grid.flat, top.tolist(), strict=False):
        image = axes.imshow(
            first[unit].view(28, 28).numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit
        )
        axes.set_title(f"{float(norms[unit]):.2f}", fontsize=8, pad=2)
    figure.colorbar(image, ax=grid, label="weight", shrink=0.9, extend="both")
    return figure


def _score(score: Tensor, loss: str) -> str:
    if loss == "mse":
        return f"{float(score):.2f}"
    percent = 100 * float(score)
    return f"{percent:.0f}%" if percent >= 1 else f"{percent:.1g}%"
