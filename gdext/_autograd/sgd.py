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
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    lr_tensor: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    check_only: bool = False,
) -> None:
    return None
