"""A loss module as the kernel takes it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import _reduction

from gdext import nn as gdext_nn

CROSS_ENTROPY, MSE = 0, 1  # csrc/contract/mlp.h: MlpLoss
_KINDS = (gdext_nn.CrossEntropyLoss, gdext_nn.MSELoss, nn.CrossEntropyLoss, nn.MSELoss)


class Loss(NamedTuple):
    """kind: CROSS_ENTROPY or MSE; the others as the op ``gdext::mlp_`` takes them."""

    kind: int
    reduction: int
    weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0


def read_loss(loss: nn.Module) -> Loss:
    """What ``loss`` computes.

    Raises:
        TypeError: neither MSELoss nor CrossEntropyLoss, of torch.nn or gdext.nn.
        ValueError: reduction="none", or a label_smoothing outside [0, 1].
        RuntimeError: hooks.
    """
    kind = type(loss)
    if kind not in _KINDS:
        raise TypeError(
            "loss: wanted an MSELoss or CrossEntropyLoss of torch.nn or gdext.nn, got "
            f"{kind.__name__}"
        )
    if gdext_nn.has_hooks(loss) or "forward" in loss.__dict__:
        raise RuntimeError(
            "loss: wanted no hooks and no forward of its own, which the fused step would not call"
        )
    assert isinstance(loss, nn.MSELoss | nn.CrossEntropyLoss)
    if loss.reduction not in ("mean", "sum"):
        raise ValueError(f"loss: wanted reduction 'mean' or 'sum', got {loss.reduction!r}")
    reduction = _reduction.get_enum(loss.reduction)
    if isinstance(loss, nn.MSELoss):
        return Loss(MSE, reduction)
    smoothing = float(loss.label_smoothing)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"loss: wanted label_smoothing from 0 to 1, got {smoothing}")
    return Loss(CROSS_ENTROPY, reduction, loss.weight, loss.ignore_index, smoothing)
