"""``torch.optim``'s optimizers, with the whole update of all parameters in one kernel call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import gdext._autograd.sgd  # noqa: F401  (registers the op's fake kernel)

__all__ = ["SGD"]


class SGD(torch.optim.SGD):
    """Stochastic gradient descent, as ``torch.optim.SGD``: its arguments, groups and state_dict.

    For each parameter p with gradient g and momentum buffer m, elementwise:

        d = (-g if maximize else g) + weight_decay p
        m = d at the first step, then momentum m + (1 - dampening) d      where momentum != 0
        d = d + momentum m if nesterov else m                             where momentum != 0
        p = p - lr d

    A state_dict goes both ways with torch.optim.SGD, at any step. ``lr`` may be a tensor of one
    element; on a GPU it is read there, without waiting for it. ``foreach`` and ``fused``, which
    choose between torch's implementations, are accepted and change nothing: there is one here.
    Complex parameters are updated as pairs of real ones.

    ``torch.amp.GradScaler`` may leave the unscaling to the update (the gradients are then stored
    back unscaled, as by torch's fused SGD). A step that finds infinities changes nothing, not even
    the state. Only where a parameter has no momentum buffer yet, that is at its first step, must
    this be known before the kernel starts, and the step waits for the GPU once.

    Raises:
        ValueError: lr, momentum or weight_decay negative, NaN or infinite; dampening NaN or
            infinite; nesterov without momentum or with dampening. Checked when given, and again at
            every step (schedulers change them), where a negative lr is let pass; but a tensor lr
            on a GPU only for its shape.
        RuntimeError: ``differentiable=True``; a gradient that is sparse or not of its parameter's
            shape, dtype and device; parameters of one group that share memory.

    All checks come before the first change: after an error parameters and state are as they were.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning",
    ICML 2013, in the form of torch.optim.SGD.
    """

    # Tells GradScaler to hand over grad_scale and found_inf as attributes, and to call step always.
    _step_supports_amp_scaling = True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own (see ``torch.optim.Optimizer``)."""
        check_options({**self.defaults, **param_group}, smallest_lr=0.0)
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: computes the loss and its gradients anew; called first, with gradients enabled.

        Returns:
            What ``closure`` returned, else None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._update()
        return loss

    def _update(self) -> None:
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        updates = []
        for index, group in enumerate(self.param_groups):
            # As in torch, a schedule may take lr below 0: cosines end at 0 only up to rounding.
            check_options(group, smallest_lr=-math.inf)
            update = _Update(index, group, self.state)
            if update.params:
                updates.append(update)
        if len(updates) > 1:  # a single update checks itself before it writes
            for update in updates:
                update.check()
        if (
            found_inf is not None
            and any(update.is_first for update in updates)
            and found_inf.item()
        ):
            return
        for update in updates:
            update.run(self.state, grad_scale, found_inf)


class _Update:
    """The tensors of one param group that have gradients, and the call that updates them."""

    def __init__(self, index: int, group: dict[str, Any], state: dict[Tensor, Any]) -> None:
        self.index = index
        self.group = group
        self.params: list[Tensor] = []
        self.grads: list[Tensor] = []
        for position, p in enumerate(group["params"]):
            g = p.grad
            if g is None:
                continue
            if g.layout is not torch.strided:
                raise RuntimeError(
                    f"param_groups[{index}]['params'][{position}].grad: wanted a dense gradient "
                    f"(layout torch.strided), got {g.layout}"
                )
            if g.is_conj() or g.is_neg():
                # A view whose memory holds other numbers than it shows; kernels see memory.
                g = p.grad = g.resolve_conj().resolve_neg()
            self.params.append(p)
            self.grads.append(g)
        self.buffers: list[Tensor | None] = []
        if group["momentum"] != 0:
            # Not state[p], which would leave an empty entry behind if the step goes no further.
            self.buffers = [
                state[p].get("momentum_buffer") if p in state else None for p in self.params
            ]
        self.first = [buffer is None for buffer in self.buffers]
        self.is_first = True in self.first

    def check(self) -> None:
        """What the op checks: all updates of a step must pass before the first one starts."""
        # A buffer that is still to be made will be like its parameter.
        buffers = [
            p if buffer is None else buffer
            for p, buffer in zip(self.params, self.buffers, strict=False)
        ]
        try:
            self._call(buffers, check_only=True)
        except (RuntimeError, ValueError) as error:
            raise type(error)(f"param_groups[{self.index}]: {error}") from None

    def run(
        self, state: dict[Tensor, Any], grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        params, grads = self.params, self.grads
        buffers = [
            torch.empty_like(p, memory_format=torch.preserve_format) if buffer is None else buffer
            for p, buffer in zip(params, self.buffers, strict=False)
        ]
        self._call(buffers, grad_scale, found_inf)
        # The kernel writes where autograd cannot see it.
        written = params + buffers if grad_scale is None else params + buffers + grads
        torch.autograd.graph.increment_version(written)
        if self.is_first:
            for p, buffer, first in zip(params, buffers, self.first, strict=True):
                if first:
                    state[p]["momentum_buffer"] = buffer

    def _call(
        self,
        buffers: list[Tensor],
        grad_scale: Tensor | None = None,
        found_inf: Tensor | None = None,
        check_only: bool = False,
    ) -> None:
        group = self.group
        lr = group["lr"]
        is_tensor = isinstance(lr, Tensor)
        torch.ops.gdext.sgd_.default(
            _as_real(self.params),
            _as_real(self.grads),
            _as_real(buffers),
            self.first,
            lr=0.0 if is_tensor else lr,
            lr_tensor=lr if is_tensor else None,
            momentum=float(group["momentum"]),
            dampening=float(group["dampening"]),
            weight_decay=float(group["weight_decay"]),
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            grad_scale=grad_scale,
            found_inf=found_inf,
            check_only=check_only,
        )


def _as_real(tensors: list[Tensor]) -> list[Tensor]:
    if not any(map(torch.is_complex, tensors)):
        return tensors
    return [torch.view_as_real(t) if t.is_complex() else t for t in tensors]


def check_options(group: dict[str, Any], smallest_lr: float) -> None:
    """Raise ValueError (RuntimeError for differentiable) if these are no options to step with."""
    for name, smallest in (
        ("lr", smallest_lr),
        ("momentum", 0.0),
        ("dampening", -math.inf),
        ("weight_decay", 0.0),
    ):
        value = group[name]
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"{name}: wanted one element, got shape {list(value.shape)}")
            if value.device.type != "cpu":
                continue
        if not math.isfinite(value) or value < smallest:
            limit = "" if smallest < 0 else " >= 0"
            raise ValueError(f"{name}: wanted a finite number{limit}, got {float(value)}")
    if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
        raise ValueError(
            "nesterov: wanted momentum > 0 and dampening == 0, "
            f"got momentum {group['momentum']} and dampening {group['dampening']}"
        )
    if group["differentiable"]:
        raise RuntimeError(
            "differentiable: wanted False, got True; the update is a kernel that autograd does not "
            "see through: use torch.optim.SGD"
        )
