"""linear's last derivatives: those of its derivatives, in reverse and in forward mode, as sums of
products of tensors without a graph. The maths: csrc/contract/linear.h.

Shapes: dy and z's tangent or cotangent [*, O], x [*, I], weight [O, I], bias [O]; what belongs to
one of them (a gradient, its cotangent u, v or r, a tangent tx, tw or tb) has its shape.
"""

from __future__ import annotations

from typing import Any

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
    q = along(_product, u, v, r, x, weight)
    assert q is not None
    q = q.expand(dy.shape)
    if saved is None:
        gdy, dz = q, dy
        gx = gw = gb = None
    else:
        gdy, gz, dz = _activation_double_backward(q, dy, saved, activation)
        gx, gw, gb = _gradients(gz, x, weight, *needed)

    # through the products: S = <u, dz w> + <v, dz^T x>: x's gradient is dz v, weight's dz^T u
    dz_v, dz_u, _ = _gradients(dz, u, v, need_x and v is not None, need_w and u is not None, False)
    return gdy, _sum(gx, dz_v), _sum(gw, dz_u), gb


def through_activation(
    c: Tensor,
    q: Tensor,
    saved: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    activation: int,
    *needed: bool,
) -> Grads:
    """Gradients of q, x, weight and bias from the cotangent c of q f'(z)."""
    gq, gz, _ = _activation_double_backward(c, q, saved, activation)
    return gq, *_gradients(gz, x, weight, *needed)


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
    """The tangents of dx = dz w, dw = dz^T x and db = sum dz."""
    want_x, want_w, _ = wanted
    dz, tdz = dy, tdy
    if saved is not None:
        tdz, dz = tangent_of_dz(tdy, tx, tw, tb, dy, saved, x, weight, activation)
    if tdz is None:  # autograd takes no None beside a tangent
        tdz = torch.zeros_like(dy)
    tdx, tdw, tdb = _gradients(tdz, x, weight, *wanted)
    dz_tw, dz_tx, _ = _gradients(
        dz, tx, tw, want_x and tw is not None, want_w and tx is not None, False
    )
    return _sum(tdx, dz_tw), _sum(tdw, dz_tx), tdb


def tangent_of_dz(
    tdy: Tensor | None,
    tx: Tensor | None,
    tw: Tensor | None,
    tb: Tensor | None,
    dy: Tensor,
    saved: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    activation: int,
) -> Grads:
    """The tangent of dz = dy f'(z), and dz."""
    if activation in PIECEWISE_LINEAR:
        tx = tw = tb = None
    tz = along(_product, tx, tw, tb, x, weight)
    tz = torch.zeros_like(dy) if tz is None else tz.expand(dy.shape)
    _, tdz, dz = _activation_double_backward(tz, dy, saved, activation)
    if tdy is not None:
        tdz = tdz + _activation_double_backward(tdy, tdy, saved, activation)[0]
    return tdz, dz


def along(
    product: Any,
    u: Tensor | None,
    v: Tensor | None,
    r: Tensor | None,
    x: Tensor | None,
    weight: Tensor | None,
) -> Tensor | None:
    """u w^T + x v^T + r: how z changes along (u, v, r). None where these are; r alone stays [O]."""
    q = None
    if u is not None:
        q, r = product(u, weight, r, IDENTITY, False), None
    if v is not None:
        q, r = _sum(q, product(x, v, r, IDENTITY, False)), None
    return r if q is None else q


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: int, want_z: bool
) -> Tensor:
    return _linear(x, weight, bias, activation, want_z)[0]


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
