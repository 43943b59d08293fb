"""``torch.optim``'s optimizers, with the whole update of all parameters in one kernel call."""

from __future__ import annotations

import functools
import itertools
import math
import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

import gdext._autograd.sgd  # noqa: F401  (registers the op's fake kernel)

__all__ = ["SGD"]

_sgd = torch.ops.gdext.sgd_.default


class SGD(torch.optim.SGD):
    """Stochastic gradient descent, as ``torch.optim.SGD``: its arguments, groups and state_dict.

    For each parameter p with gradient g and momentum buffer m, elementwise:

        d = (-g if maximize else g) + weight_decay p
        m = d at the first step, then momentum m + (1 - dampening) d      where momentum != 0
        d = d + momentum m if nesterov else m                             where momentum != 0
        p = p - lr d

    Args:
        params: parameters, or param groups, dictionaries with "params" and options of their own.
        lr: the learning rate; may be a tensor of one element.
        momentum, dampening, weight_decay, nesterov, maximize: see above.
        foreach, fused: accepted and without effect, see below.
        differentiable: wanted False.

    Shape:
        ``lr``: a number or ``[]`` or ``[1]``. Parameters: any.

    A state_dict goes both ways with torch.optim.SGD, at any step. ``lr`` may be a tensor of one
    element; on a GPU it is read there, without waiting for it. ``foreach`` and ``fused``, which
    choose between torch's implementations, are accepted and change nothing: there is one here. On a
    GPU it is one launch for all parameters of a group that have one dtype; where these are more
    than 1008, the host runs at most 16 updates ahead.
    Complex parameters are updated as pairs of real ones. Parameters that are moved to another dtype
    (``model.double()``) keep their momentum buffers in the old one, as in torch. Of parameters that
    are DTensors, those of torch.distributed.fsdp.fully_shard say, each process updates the shard
    that it holds.

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
            shape and device; parameters of one group that share memory.

    All checks come before the first change: after an error parameters and state are as they were.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning",
    ICML 2013, in the form of torch.optim.SGD.

    Example::

        >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> optimizer = gdext.optim.SGD([p], lr=0.5)
        >>> p.square().sum().backward()
        >>> optimizer.step()
        >>> p.tolist()
        [0.0, 0.0]
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
        if (
            profiler._is_profiler_enabled
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
        ):
            return _observed_step(self, closure)
        return self._step(closure)

    # Else torch would wrap it, and marks for a profiler that is not there would take as long as the
    # update of a small network.
    step.hooked = True  # type: ignore[attr-defined]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or fill them with zeros (see ``torch.optim.Optimizer``)."""
        if profiler._is_profiler_enabled or not set_to_none:
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # torch.no_grad, which takes longer than the update of a small network.
        enabled = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            attributes = vars(self)
            self._update(attributes.get("grad_scale"), attributes.get("found_inf"))
        finally:
            torch._C._set_grad_enabled(enabled)
        return loss

    def _update(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
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
        if found_inf is not None and any(update.is_first for update in updates):
            if found_inf.is_cuda and torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    "found_inf: wanted a first step with momentum outside of a CUDA graph's "
                    "capture, since it must be read before the buffers are made: take one before"
                )
            if found_inf.item():
                return
        for update in updates:  # all of them before any update: there may be too little memory
            update.make_buffers()
        for update in updates:
            update.run(self.state, grad_scale, found_inf)


# With torch's marks for the profiler, and the hooks.
_observed_step = torch.optim.Optimizer.profile_hook_step(SGD._step)


class _Update:
    """The tensors of one param group that have gradients, and the call that updates them."""

    def __init__(self, index: int, group: dict[str, Any], state: dict[Tensor, Any]) -> None:
        self.index = index
        self.group = group
        self.params: list[Tensor] = group["params"]
        grads: list[Any] = [p.grad for p in self.params]
        if any(map(operator.is_, grads, itertools.repeat(None))):
            self.params = [p for p in self.params if p.grad is not None]
            grads = [p.grad for p in self.params]
        self.grads: list[Tensor] = grads
        self.buffers: list[Any] = []
        self.first: list[bool] = []  # of each buffer, whether it is new; empty: none is
        self.is_first = False
        if group["momentum"] != 0:
            self.buffers = [
                None if entry is None else entry.get("momentum_buffer")
                for entry in _entries(state, self.params)
            ]
            self.is_first = any(map(operator.is_, self.buffers, itertools.repeat(None)))
        self.is_sharded = _are_sharded(self.params)
        if self.is_sharded:
            self._align_gradients()

    def check(self) -> None:
        """What the op checks: all updates of a step must pass before the first one starts."""
        # A buffer that is still to be made will be like its parameter.
        buffers = [
            p if buffer is None else buffer
            for p, buffer in zip(self.params, self.buffers, strict=False)
        ]
        self._call(buffers, [], check_only=True)

    def make_buffers(self) -> None:
        if self.is_first:
            self.first = [buffer is None for buffer in self.buffers]
            self.buffers = [
                torch.empty_like(p, dtype=g.dtype, memory_format=torch.preserve_format)
                if b is None
                else b
                for p, g, b in zip(self.params, self.grads, self.buffers, strict=True)
            ]

    def run(
        self, state: dict[Tensor, Any], grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        params, buffers, first = self.params, self.buffers, self.first
        if grad_scale is None and found_inf is None:
            self._call(buffers, first)
        else:
            self._call(buffers, first, grad_scale=grad_scale, found_inf=found_inf)
        # The kernel writes where autograd cannot see it.
        written = params + buffers if grad_scale is None else params + buffers + self.grads
        torch.autograd.graph.increment_version(written)
        if self.is_first:
            for p, buffer, is_first in zip(params, buffers, first, strict=True):
                if is_first:
                    state[p]["momentum_buffer"] = buffer

    def _call(self, buffers: list[Tensor], first: list[bool], **options: Any) -> None:
        group = self.group
        lr = group["lr"]
        if isinstance(lr, Tensor):
            options["lr_tensor"], lr = lr, 0.0
        # What is off is left out, since each argument takes its time.
        for name in ("momentum", "dampening", "weight_decay"):
            if group[name]:
                options[name] = float(group[name])
        for name in ("nesterov", "maximize"):
            if group[name]:
                options[name] = True
        params, grads = self.params, self.grads
        if self.is_sharded:
            params, grads, buffers = map(_shards, (params, grads, buffers))
        try:
            _sgd(params, grads, buffers, first, lr, **options)
        except (RuntimeError, ValueError):  # what the op does not take, and what is wrong
            if "check_only" not in options and _takes(params, grads, buffers, first, lr, options):
                raise  # a kernel's: some parameters may be updated, and must not be once more
            self._resolve_lazy_gradients()
            params, grads = self.params, self.grads
            if self.is_sharded:
                params, grads = _shards(params), _shards(grads)
            try:
                _sgd_of_mixed_dtypes(params, grads, buffers, first, lr, **options)
            except (RuntimeError, ValueError) as error:
                if "check_only" in options:  # there are several groups
                    error = type(error)(f"param_groups[{self.index}]: {error}")
                raise error from None

    def _align_gradients(self) -> None:
        """Shard each gradient as its parameter is: FSDP does so, other code may not."""
        p: Any
        g: Any
        for p, g in zip(self.params, self.grads, strict=True):
            if hasattr(g, "redistribute") and g.placements != p.placements:
                p.grad = g.redistribute(p.device_mesh, p.placements)
        self.grads = [g for p in self.params if (g := p.grad) is not None]

    def _resolve_lazy_gradients(self) -> None:
        """Conjugate and negative views show other numbers than their memory holds, and PyTorch
        hands them to no op that writes to a list."""
        for position, p in enumerate(self.group["params"]):
            g = p.grad
            if g is None:
                continue
            if g.layout is not torch.strided:
                raise RuntimeError(
                    f"param_groups[{self.index}]['params'][{position}].grad: wanted a dense "
                    f"gradient (layout torch.strided), got {g.layout}"
                ) from None
            if g.is_conj() or g.is_neg():
                p.grad = g.resolve_conj().resolve_neg()
        self.grads = [g for p in self.params if (g := p.grad) is not None]


def _takes(
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor],
    first: list[bool],
    lr: float,
    options: dict[str, Any],
) -> bool:
    """Whether the op finds nothing wrong with these."""
    try:
        _sgd(params, grads, buffers, first, lr, **options, check_only=True)
    except (RuntimeError, ValueError):
        return False
    return True


def _sgd_of_mixed_dtypes(
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor],
    first: list[bool],
    lr: float,
    **options: Any,
) -> None:
    """The op where a parameter, its gradient and its momentum buffer may differ in dtype: after
    ``model.double()``, which leaves the buffers as they are, or where ``grad_dtype`` was set.

    As in torch.optim.SGD, the arithmetic is in the dtype that all three promote to, and each of
    them stays in its own.
    """
    lists = [list(params), list(grads), list(buffers)]
    given = [tensors for tensors in lists if tensors]
    for i, triple in enumerate(zip(*given, strict=True)):
        dtypes = {t.dtype for t in triple}
        if len(dtypes) > 1 and all(d.is_floating_point for d in dtypes):
            wide = functools.reduce(torch.promote_types, dtypes)
            for tensors, t in zip(given, triple, strict=True):
                tensors[i] = t.to(wide)
    copied = any(u is not t for t, u in zip(params, lists[0], strict=True))
    if copied and not options.get("check_only"):  # the copies would hide what is wrong with params
        like_params = params if buffers else []
        _sgd(params, params, like_params, [], lr, **{**options, "check_only": True})
    _sgd(*lists, first, lr, **options)
    if options.get("check_only"):
        return
    for originals, tensors in zip((params, grads, buffers), lists, strict=True):
        for t, u in zip(originals, tensors, strict=True):
            if u is not t:
                t.copy_(u)


def _are_sharded(params: list[Tensor]) -> bool:
    """Whether there is a DTensor among them."""
    module = sys.modules.get("torch.distributed.tensor")  # who has a DTensor has imported it
    return module is not None and module.DTensor in set(map(type, params))


def _shards(tensors: list[Tensor]) -> list[Tensor]:
    """What this process holds of each."""
    return [t.to_local() if hasattr(t, "to_local") else t for t in tensors]


def _entries(state: dict[Tensor, Any], params: list[Tensor]) -> Iterable[Any]:
    """state[p] of each of ``params``, None where there is none."""
    # The usual case by itself, since hashing a tensor takes longer than the rest.
    if len(state) == len(params) and all(map(operator.is_, state, params)):
        return state.values()
    # Not state[p], which would leave an empty entry behind if the step goes no further.
    return map(state.get, params)


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
