"""Several layers as one function, for eager mode: the ops are those of linear.py, but there is one
node in the graph for all layers, since in a small network the nodes take longer than the products.

Letters: I in_features, O out_features, L layers; ``[*, I]`` stands for any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gdext._autograd.eager import (
    eager_form,
    is_differentiated,
    is_transformed,
    refuse_batched_graph,
)
from gdext._autograd.linear import Linear, values_to_save
from gdext._autograd.linear_ops import SAVES_Z, _linear, _linear_backward
from gdext._autograd.linear_twice import Grads


def is_eager() -> bool:
    """Whether layers may be joined: not compiled, under torch.func or forward mode, or autocast."""
    return not (
        torch.compiler.is_compiling() or is_transformed() or torch._C._is_any_autocast_enabled()
    )


def _forward(
    ctx: Any, x: Tensor, activations: Sequence[int], want_z: bool, *params: Tensor | None
) -> Tensor:
    """weight [O, I] and bias [O] or None of each layer -> y [*, O] of the last layer."""
    need_x, _, _, *need = ctx.needs_input_grad
    ctx.params, ctx.activations, ctx.needed = params, activations, []
    first = x
    ctx.materialize_grads = False
    saved: list[Tensor | None] = []
    for i, activation in enumerate(activations):
        weight, bias = params[2 * i], params[2 * i + 1]
        assert weight is not None
        y, z = _linear(x, weight, bias, activation, want_z)
        needed = [need_x, need[2 * i], need[2 * i + 1]]
        saved += values_to_save(needed, x, weight, bias, activation, y, z)
        ctx.needed.append(needed)
        x, need_x = y, True in needed
    # For the graph of the gradients. What the products need of x is saved, and so let go after
    # the backward.
    ctx.x = first if saved[0] is None and ctx.needs_input_grad[0] else None
    ctx.to_save = tuple(saved)
    return x


def _backward(ctx: Any, dy: Tensor | None) -> Grads:
    saved = ctx.saved_tensors
    grads: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
    if dy is None:
        return tuple(grads)
    if is_differentiated():
        refuse_batched_graph(dy)
        grads[0], *grads[3:] = _differentiable_grads(ctx, saved, dy)
        return tuple(grads)
    for i in range(len(ctx.activations) - 1, -1, -1):
        x, weight, _, s = saved[4 * i : 4 * i + 4]
        need_x, need_w, need_b = needed = ctx.needed[i]
        if True not in needed:
            break
        dx, dw, db = _linear_backward(dy, s, x, weight, ctx.activations[i], needed)
        if need_w:
            grads[3 + 2 * i] = dw
        if need_b:
            grads[4 + 2 * i] = db
        dy = dx if need_x else None
    grads[0] = dy
    return tuple(grads)


_apply = eager_form("Layers", _forward, _backward)


def joined_layers(x: Tensor, activations: Sequence[int], params: Sequence[Tensor | None]) -> Tensor:
    """linear.py's linear, once for each layer: x [*, I], activations [L], weight [O, I] and bias
    [O] or None of each layer in turn."""
    is_grad_enabled = torch.is_grad_enabled()
    if is_grad_enabled and torch.is_inference_mode_enabled():  # which gives no graph
        with torch.no_grad():
            return joined_layers(x, activations, params)
    y: Tensor = _apply(x, activations, is_grad_enabled, *params)
    return y


class Recorded(Function):
    """A layer whose outputs are known: (x, weight, bias or None, activation, (y, z)) -> y."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        activation: int,
        outputs: tuple[Tensor, Tensor],
    ) -> Tensor:
        y, z = outputs
        y = y.detach()
        ctx.activation = activation
        ctx.set_materialize_grads(False)
        needed = ctx.needs_input_grad[:3]
        ctx.save_for_backward(*values_to_save(needed, x, weight, bias, activation, y, z))
        return y

    backward = staticmethod(Linear.backward)


def _as_at_forward(t: Tensor, needed: bool) -> Tensor:
    """t, with a gradient if it needed one then, whatever it requires by now. A view, so that what
    the inputs were made of, perhaps of one another, is not walked through."""
    return (t.view_as(t) if needed else t.detach()).requires_grad_(needed)


def _differentiable_grads(
    ctx: Any, saved: Sequence[Tensor | None], dy: Tensor
) -> list[Tensor | None]:
    """The gradients of x and the parameters, connected to them and to dy: by way of a node for each
    layer, built around the values that the forward saved."""
    needed = (ctx.needs_input_grad[0], *ctx.needs_input_grad[3:])
    # What was saved, where it was: hooks may have copied it before a parameter was changed.
    values = [saved[0] if ctx.x is None else ctx.x]
    for i, param in enumerate(ctx.params):
        value = saved[4 * (i // 2) + 1 + i % 2]
        values.append(param if value is None else value)
    inputs: list[Any] = [
        None if t is None else _as_at_forward(t, need)
        for t, need in zip(values, needed, strict=True)
    ]
    y, *params = inputs
    for i, activation in enumerate(ctx.activations):
        weight, bias = params[2 * i : 2 * i + 2]
        s = saved[4 * i + 3]
        value = s if activation not in SAVES_Z else None
        if value is None and i + 1 < len(ctx.activations):
            value = saved[4 * i + 4]
        if value is None:  # only its shape matters
            value = dy.new_empty((*dy.shape[:-1], len(weight)))
        z = s if activation in SAVES_Z else value.new_empty(0)
        y = Recorded.apply(y, weight, bias, activation, (value, z))
    wanted = [t for t, need in zip(inputs, needed, strict=True) if need]
    grads = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return [next(grads) if need else None for need in needed]
