"""An optimizer's options and momentum buffers, for the parameters of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from gdext._fused.data import is_capturing
from gdext._fused.memory import Memory
from gdext._fused.network import Network
from gdext.optim import SGD, check_options

OPTIONS = ("momentum", "dampening", "weight_decay", "nesterov", "maximize", "lr")


class Update:
    """How ``optimizer`` updates the parameters of ``network`` in its next step.

    Attributes:
        groups: the param group of each parameter.
        options: six numbers for each group, `OPTIONS`.
        buffers: the momentum buffer of each parameter whose group has momentum. Those that PyTorch
            would make in its next step are made, and no part of the optimizer's state yet.
        first: for each buffer, whether it is such a one.
        state: the optimizer's state of the parameters with such buffers.

    Raises:
        TypeError: no SGD.
        ValueError: its parameters are not those of the network; an option out of its range.
        RuntimeError: ``differentiable``, or hooks.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, network: Network) -> None:
        kind = type(optimizer)
        if kind is not SGD and kind is not torch.optim.SGD:
            raise TypeError(
                f"optimizer: wanted an SGD of gdext.optim or torch.optim, got {kind.__name__}"
            )
        if (
            optimizer._optimizer_step_pre_hooks
            or optimizer._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
        ):
            raise RuntimeError(
                "optimizer: wanted no hooks on step, which the fused step would not call; got some"
            )
        group_of: dict[int, int] = {}
        self.options: list[float] = []
        for index, group in enumerate(optimizer.param_groups):
            try:
                check_options(group, -math.inf)  # as in SGD.step, schedules may take lr below 0
            except (RuntimeError, ValueError) as error:
                raise type(error)(f"optimizer.param_groups[{index}]: {error}") from None
            lr = group["lr"]
            if isinstance(lr, Tensor) and lr.device.type == "cuda" and is_capturing(lr.device):
                raise RuntimeError(
                    f"optimizer.param_groups[{index}]['lr']: wanted a number while a CUDA graph is "
                    f"captured, got a tensor on {lr.device}; give it as run's lr, to be read anew "
                    "at each replay"
                )
            self.options += [float(group[name]) for name in OPTIONS]
            group_of.update(dict.fromkeys(map(id, group["params"]), index))
        params = network.params
        self.groups = [group_of.get(id(p), -1) for p in params]
        if -1 in self.groups or len(group_of) != len(params):
            _refuse_parameters(optimizer, network, self.groups)

        self.params_with_momentum: list[Tensor] = params  # type: ignore[assignment]
        momentum = self.options[:: len(OPTIONS)]
        if 0 in momentum:
            self.params_with_momentum = [
                p for p, index in zip(params, self.groups, strict=True) if momentum[index] != 0
            ]
        self.buffers: list[Tensor] = []
        self.first: list[bool] = []
        self.state: dict[Tensor, Any] = {}
        for p in self.params_with_momentum:
            of_p = optimizer.state.get(p)
            buffer = of_p.get("momentum_buffer") if of_p else None
            self.first.append(buffer is None)
            if buffer is None:
                buffer = torch.empty_like(p, memory_format=torch.preserve_format)
                self.state[p] = {**(of_p or {}), "momentum_buffer": buffer}
            self.buffers.append(buffer)

    def check_memory(self, network: Network) -> Memory:
        """The memory of parameters and buffers. Raise ValueError unless each buffer is like its
        parameter and all elements of them lie at addresses of their own."""
        named: list[tuple[str, Tensor]] = [(network.name_of(p), p) for p in network.params]
        for p, buffer in zip(self.params_with_momentum, self.buffers, strict=True):
            name = network.name_of(p)
            if type(buffer) is not Tensor or buffer.dtype is not p.dtype or buffer.shape != p.shape:
                got = (
                    f"{buffer.dtype} {list(buffer.shape)}"
                    if type(buffer) is Tensor
                    else type(buffer).__name__
                )
                raise ValueError(
                    f"optimizer: wanted {name}'s momentum buffer of its dtype and shape, "
                    f"{p.dtype} {list(p.shape)}, got {got}"
                )
            dense = buffer.layout is torch.strided and not buffer.is_neg()
            if buffer.device != p.device or not dense:
                raise ValueError(
                    f"optimizer: wanted {name}'s momentum buffer dense and on {p.device}, got "
                    f"{buffer.layout} on {buffer.device}"
                    f"{', lazily negated' if buffer.is_neg() else ''}"
                )
            named.append((f"{name}'s momentum buffer", buffer))
        return Memory(named)


def read_lr(
    lr: float | Sequence[float] | Tensor | None, steps: int, groups: int, device: torch.device
) -> Tensor | None:
    """Learning rates, float64 [steps, groups], on ``device``; None for the groups' own.

    Raises:
        ValueError: a shape other than [], [steps] or [steps, groups]; a negative or infinite number
            or NaN.
        RuntimeError: in a CUDA graph's capture, where they are not on ``device``. Those that are
            will be read at each replay: their values are not looked at.
    """
    if lr is None:
        return None
    capturing = is_capturing(device) and not isinstance(lr, (int, float))
    if capturing and not (isinstance(lr, Tensor) and lr.device == device):
        got = f"a tensor on {lr.device}" if isinstance(lr, Tensor) else type(lr).__name__
        raise RuntimeError(
            f"lr: wanted a number or a tensor on {device} while a CUDA graph is captured (it is "
            f"read at each replay), got {got}"
        )
    place = device if capturing else torch.device("cpu")
    given = torch.as_tensor(lr, dtype=torch.float64, device=place).detach()
    if given.dim() == 1 and len(given) == steps:
        given = given[:, None]
    elif given.dim() and given.shape != (steps, groups):
        raise ValueError(
            f"lr: wanted a number, or shape [{steps}] (steps) or [{steps}, {groups}] "
            f"(steps, param groups), got shape {list(given.shape)}"
        )
    if not capturing:
        bad = ~(given.isfinite() & (given >= 0))
        if bad.any():
            raise ValueError(f"lr: wanted finite numbers >= 0, got {float(given[bad][0])}")
    if not given.dim() and not capturing:  # nothing to be copied to the device
        return torch.full((steps, groups), float(given), dtype=torch.float64, device=device)
    return given.expand(steps, groups).contiguous().to(device, non_blocking=True)


def _refuse_parameters(
    optimizer: torch.optim.Optimizer, network: Network, groups: list[int]
) -> NoReturn:
    for p, index in zip(network.params, groups, strict=True):
        if index < 0:
            raise ValueError(
                "optimizer: wanted every parameter of the model, got none of the name "
                f"{network.name_of(p)}"
            )
    known = set(map(id, network.params))
    index, position, p = next(
        (index, position, p)
        for index, group in enumerate(optimizer.param_groups)
        for position, p in enumerate(group["params"])
        if id(p) not in known
    )
    raise ValueError(
        "optimizer: wanted the parameters of the model's layers alone, got another one: "
        f"param_groups[{index}]['params'][{position}], of shape {list(p.shape)}"
    )
