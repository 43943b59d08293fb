"""A loss module as the kernel takes it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import _reduction

from gdext import nn as gdext_nn
from gdext._fused.network import has_hooks

CROSS_ENTROPY, MSE = 0, 1  # csrc/contract/mlp.h: MlpLoss


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
    cross_entropy = kind is gdext_nn.CrossEntropyLoss or kind is nn.CrossEntropyLoss
    if not (cross_entropy or kind is gdext_nn.MSELoss or kind is nn.MSELoss):
        raise TypeError(
            "loss: wanted an MSELoss or CrossEntropyLoss of torch.nn or gdext.nn, got "
            f"{kind.__name__}"
        )
    if has_hooks(loss) or "forward" in loss.__dict__:
        raise RuntimeError(
            "loss: wanted no hooks and no forward of its own, which the fused step would not call"
        )
    reduction = loss.reduction
    if reduction not in ("mean", "sum"):
        raise ValueError(f"loss: wanted reduction 'mean' or 'sum', got {reduction!r}")
    number = _reduction.get_enum(reduction)
    if not cross_entropy:
        return Loss(MSE, number)
    smoothing = float(loss.label_smoothing)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"loss: wanted label_smoothing from 0 to 1, got {smoothing}")
    return Loss(CROSS_ENTROPY, number, loss._buffers["weight"], loss.ignore_index, smoothing)
