"""linear's last derivatives: those of its derivatives, in reverse and in forward mode, as sums of
products of tensors without a graph. The maths: csrc/contract/linear.h.

Shapes: dy and z's tangent or cotangent [*, O], x [*, I], weight [O, I], bias [O]; what belongs to
one of them (a gradient, its cotangent u, v or r, a tangent tx, tw or tb) has its shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdext._autograd.linear_ops import (
    IDENTITY,
    PIECEWISE_LINEAR,
    _activation_double_backward,
    _linear,
    _linear_backward,
)

Grads = tuple[Tensor | None, ...]


def tangent(
    u: Tensor | None,
    v: Tensor | None,
    r: Tensor | None,
    saved: Tensor | None,
    x: Tensor,
    weight: Tensor,
    activation: int,
) -> Tensor:
    """ty = f'(z) (u w^T + x v^T + r), in the letters of csrc/contract/linear.h q f'(z)."""
    shape = x.new_empty(()).expand(*x.shape[:-1], len(weight))
    q = _like(shape, _along(u, v, r, x, weight))
    return q if saved is None else _times_slope(q, saved, activation)


def double_backward(
    u: Tensor | None,
    v: Tensor | None,
    r: Tensor | None,
    dy: Tensor,
    saved: Tensor | None,
    x: Tensor | None,
    weight: Tensor | None,
    activation: int,
    *needed: bool,
) -> Grads:
    """Gradients of dy, x, weight and bias from the cotangents u of dx, v of dw and r of db, not all
    of them None."""
    need_x, need_w, _ = needed
    q = _along(u, v, r, x, weight)
    assert q is not None
    q = q.expand(dy.shape)
    if saved is None:
        gdy, dz = q, dy
        gx = gw = gb = None
    else:
        gdy, gz, dz = _activation_double_backward(q, dy, saved, activation)
        gx, gw, gb = _gradients(gz, x, weight, *needed)  # through z

    # through the products: S = <u, dz w> + <v, dz^T x>: x's gradient is dz v, weight's dz^T u
    dz_v, dz_u, _ = _gradients(dz, u, v, need_x and v is not None, need_w and u is not None, False)
    return gdy, _sum(gx, dz_v), _sum(gw, dz_u), gb


def gradients_of_tangent(
    dy: Tensor,
    u: Tensor | None,
    v: Tensor | None,
    r: Tensor | None,
    saved: Tensor | None,
    x: Tensor,
    weight: Tensor,
    activation: int,
    *needed: bool,
) -> Grads:
    """Gradients of u, v, r, x, weight and bias from the cotangent dy of the tangent."""
    wanted = list(needed[:3])
    grads = _linear_backward(dy, saved, x, weight, activation, wanted)
    _, *others = double_backward(u, v, r, dy, saved, x, weight, activation, *needed[3:])
    return *(g if want else None for g, want in zip(grads, wanted, strict=True)), *others


def tangents_of_gradients(
    tdy: Tensor | None,
    tx: Tensor | None,
    tw: Tensor | None,
    tb: Tensor | None,
    dy: Tensor,
    saved: Tensor | None,
    x: Tensor | None,
    weight: Tensor | None,
    activation: int,
    *wanted: bool,
) -> Grads:
    """The tangents of dx = dz w, dw = dz^T x and db = sum dz, for dz = dy f'(z)."""
    want_x, want_w, _ = wanted
    tdz, dz = (torch.zeros_like(dy) if tdy is None else tdy), dy
    if saved is not None:
        # f'' = 0 where f is piecewise linear, and x or weight may not be there then
        curved = activation not in PIECEWISE_LINEAR
        tz = _along(tx, tw, tb, x, weight) if curved else None
        _, by_z, dz = _activation_double_backward(_like(dy, tz), dy, saved, activation)
        tdz = by_z if tdy is None else by_z + _times_slope(tdy, saved, activation)
    tdx, tdw, tdb = _gradients(tdz, x, weight, *wanted)
    dz_tw, dz_tx, _ = _gradients(
        dz, tx, tw, want_x and tw is not None, want_w and tx is not None, False
    )
    return _sum(tdx, dz_tw), _sum(tdw, dz_tx), tdb


def tangent_of_tangent(
    tu: Tensor | None,
    tv: Tensor | None,
    tr: Tensor | None,
    tx: Tensor | None,
    tw: Tensor | None,
    tb: Tensor | None,
    u: Tensor | None,
    v: Tensor | None,
    r: Tensor | None,
    saved: Tensor | None,
    x: Tensor,
    weight: Tensor,
    activation: int,
) -> tuple[Tensor]:
    """The tangent of q f'(z), for q = u w^T + x v^T + r: tq f'(z) + q f''(z) tz."""
    shape = x.new_empty(()).expand(*x.shape[:-1], len(weight))
    # u tw^T + tx v^T are the products whose both factors change
    both = None if u is None or tw is None else _product(u, tw, None)
    if tx is not None and v is not None:
        both = _sum(both, _product(tx, v, None))
    tq = _like(shape, _sum(_along(tu, tv, tr, x, weight), both))
    if saved is None:
        return (tq,)
    q, tz = (_like(shape, _along(*along, x, weight)) for along in ((u, v, r), (tx, tw, tb)))
    by_z = _activation_double_backward(tz, q, saved, activation)[1]
    return (_times_slope(tq, saved, activation) + by_z,)


def _along(
    u: Tensor | None,
    v: Tensor | None,
    r: Tensor | None,
    x: Tensor | None,
    weight: Tensor | None,
) -> Tensor | None:
    """u w^T + x v^T + r: how z changes along (u, v, r). None where these are; r alone stays [O]."""
    q = None
    if u is not None:
        q, r = _product(u, weight, r), None
    if v is not None:
        q, r = _sum(q, _product(x, v, r)), None
    return r if q is None else q


def _product(x: Tensor | None, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return _linear(x, weight, bias, IDENTITY, False)[0]


def _like(shape: Tensor, t: Tensor | None) -> Tensor:
    """t, or zeros, of that shape."""
    # contiguous, since forward mode writes to tangents
    return shape.new_zeros(shape.shape) if t is None else t.expand(shape.shape).contiguous()


def _times_slope(q: Tensor, saved: Tensor, activation: int) -> Tensor:
    """q f'(z)."""
    return _activation_double_backward(q, q, saved, activation)[0]


def _gradients(dz: Tensor, x: Tensor | None, weight: Tensor | None, *wanted: bool) -> Grads:
    """dz w, dz^T x and sum dz, None where not wanted."""
    if True not in wanted:
        return None, None, None
    grads = _linear_backward(dz, None, x, weight, IDENTITY, list(wanted))
    dx, dw, db = (grad if want else None for grad, want in zip(grads, wanted, strict=True))
    return dx, dw, db


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
