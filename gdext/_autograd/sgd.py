"""What torch.compile and fake tensors need to know of the op ``gdext::sgd_``."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.register_fake("gdext::sgd_")
def _(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    first: list[bool],
    *,
    lr: float,
    lr_tensor: Tensor | None,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    check_only: bool = False,
) -> None:
    return None
