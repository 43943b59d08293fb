"""What fake tensors need to know of the op ``gdext::mlp_``."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.register_fake("gdext::mlp_")
def _(
    params: list[Tensor],
    momentum_buffers: list[Tensor],
    first: list[bool],
    biases: list[bool],
    activations: list[int],
    groups: list[int],
    options: list[float],
    inputs: Tensor,
    targets: Tensor,
    order: Tensor | None,
    batch_size: int,
    lr: Tensor | None,
    *,
    input_scale: float,
    input_shift: float,
    loss: int,
    reduction: int,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    workspace: Tensor,
    losses: Tensor,
    done: Tensor,
    seconds: float,
    gradient: Tensor | None = None,
    norms: Tensor | None = None,
) -> int:
    return 0
