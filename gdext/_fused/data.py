"""Inputs, targets and the order in which they are taken."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import Tensor

from gdext._fused.loss import CROSS_ENTROPY
from gdext._fused.memory import Memory


def is_capturing(device: torch.device) -> bool:
    """Whether what is launched on ``device`` now goes into a CUDA graph, to be run later."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def read_data(
    inputs: Tensor, targets: Tensor, loss: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The inputs as rows, and the targets, both laid out as the op wants them: it would copy them
    anew at every call. What the op does not check of them is checked here."""
    if torch.is_autocast_enabled(device.type):
        raise RuntimeError(
            "FusedTrainer: wanted no autocast (a step is taken in the parameters' dtype), got it "
            f"enabled for {'the CPU' if device.type == 'cpu' else device.type}"
        )
    if torch.is_inference_mode_enabled():
        raise RuntimeError("FusedTrainer: wanted no torch.inference_mode, got it enabled")
    for name, t in (("inputs", inputs), ("targets", targets)):
        if type(t) is not Tensor:
            raise TypeError(f"{name}: wanted a plain torch.Tensor, got {type(t).__name__}")
        if t.layout is not torch.strided:
            raise TypeError(f"{name}: wanted a dense tensor, got layout {t.layout}")
        if t.device != device:
            raise RuntimeError(
                f"{name}: wanted device {device} (that of the parameters), got {t.device}"
            )
        if t.requires_grad:
            raise RuntimeError(
                f"{name}: wanted a tensor without requires_grad, since a step gives no gradient "
                "for it; got one with. Use detach()"
            )
    if inputs.dim() < 2:
        raise ValueError(
            f"inputs: wanted shape [N, in_features] or [N, ...], got {list(inputs.shape)}"
        )
    if not inputs.shape[0]:
        raise ValueError(f"inputs: wanted at least one sample, got shape {list(inputs.shape)}")
    if loss == CROSS_ENTROPY and targets.dtype.is_floating_point:
        raise TypeError(
            f"targets: wanted class indices, int64 [N], got {targets.dtype} {list(targets.shape)}; "
            "the fused step has no kernel for class probabilities"
        )
    if inputs.dim() > 2:
        inputs = inputs.flatten(1)
    inputs = inputs.resolve_neg()
    if inputs.stride(1) != 1:  # rows may lie apart, or be the same
        inputs = inputs.contiguous()
    return inputs, targets.resolve_neg().contiguous()


def read_order(order: Tensor, device: torch.device) -> Tensor:
    if type(order) is not Tensor:
        raise TypeError(
            "order: wanted None, a torch.Generator or an int64 tensor of samples, got "
            f"{type(order).__name__}"
        )
    if order.device != device:
        raise RuntimeError(
            f"order: wanted device {device} (that of the parameters), got {order.device}"
        )
    return order.contiguous()


def read_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Raise RuntimeError in a CUDA graph's capture: each replay would take the same order, if the
    copy of it were still there."""
    if is_capturing(device):
        raise RuntimeError(
            f"order: wanted None or a tensor on {device} while a CUDA graph is captured (such as "
            f"torch.randperm's there, captured too: then each replay has an order of its own), got "
            f"a torch.Generator on {generator.device}"
        )
    return generator


def read_batch_size(batch_size: object, count: int) -> int:
    """``batch_size``, of any type that counts (numpy's, say) but for bool: a flag is a mistake."""
    wanted = f"batch_size: wanted an integer from 1 to {count} (the number of inputs), got "
    if isinstance(batch_size, bool) or getattr(batch_size, "dtype", None) is torch.bool:
        raise ValueError(f"{wanted}the bool {batch_size!r}")
    try:
        size = operator.index(batch_size)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{wanted}{batch_size!r}") from None
    if not 1 <= size <= count:
        raise ValueError(f"{wanted}{size}")
    return size


def read_steps(steps: object, own: int, shared: bool) -> int:
    """``steps``, of which this process has samples for ``own``; others may have them for more."""
    if steps is None:
        return max(own, 1)  # an empty order is refused by the op
    if not shared:
        raise ValueError(f"steps: wanted None without a process_group, got {steps!r}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < max(own, 1):
        raise ValueError(
            f"steps: wanted an integer of at least {max(own, 1)} (for the samples of this rank), "
            f"got {steps!r}"
        )
    return steps


def check_apart(memory: Memory, given: Mapping[str, object]) -> None:
    """Raise ValueError where a step would change what is ``given``: not all steps would see it."""
    for name, t in given.items():
        if isinstance(t, Tensor) and (owner := memory.owner(t)):
            raise ValueError(
                f"{name}: wanted memory of its own, since steps change the model's; got memory of "
                f"{owner}. Use clone()"
            )
