"""Parameters, gradients, runs and the comparison that the tests of SGD share."""

import copy
import itertools

import pytest
import torch
from compare import assert_as_accurate, assert_bits_equal
from torch import nn

STEPS = 20
SHAPES = [(4, 5), (5,), (), (0, 3), (2, 3, 4)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

COMBINATIONS = [
    pytest.param(
        {
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        },
        id=f"momentum{momentum}-dampening{dampening}-decay{weight_decay}"
        + "-nesterov" * nesterov
        + "-maximize" * maximize,
    )
    for momentum, dampening, weight_decay, nesterov, maximize in itertools.product(
        (0, 0.9), (0, 0.3), (0, 0.01), (False, True), (False, True)
    )
]
VALID = [
    c
    for c in COMBINATIONS
    if not c.values[0]["nesterov"] or c.id.startswith("momentum0.9-dampening0-")
]
INVALID = [c for c in COMBINATIONS if c not in VALID]


def make_params(device, dtype=torch.float32, shapes=SHAPES):
    return [
        nn.Parameter(torch.randn(shape, dtype=torch.float64).to(device, dtype)) for shape in shapes
    ]


def clone_params(params, dtype=None):
    return [nn.Parameter(p.detach().clone().to(dtype or p.dtype)) for p in params]


def make_gradients(params, steps):
    """One gradient for each parameter at each step."""
    return [[torch.randn_like(p) for p in params] for _ in range(steps)]


def set_gradients(params, gradients):
    for p, g in zip(params, gradients, strict=True):
        p.grad = g.to(p.dtype, copy=True)


def run(optimizer, params, gradients):
    for of_step in gradients:
        set_gradients(params, of_step)
        optimizer.step()


def buffers(optimizer, params):
    return [optimizer.state[p]["momentum_buffer"] for p in params]


def snapshot(optimizer, params):
    state = [optimizer.state.get(p, {}).get("momentum_buffer") for p in params]
    return copy.deepcopy([[p.detach() for p in params], [p.grad for p in params], state])


def assert_unchanged(optimizer, params, before):
    for got, want in zip(snapshot(optimizer, params), before, strict=True):
        for g, w in zip(got, want, strict=True):
            if w is None:
                assert g is None
            else:
                assert_bits_equal(g, w)


def assert_steps_as_accurate(make_optimizer, params, options, steps=STEPS):
    """Each step, taken from where torch's trajectory in this dtype stands: parameters and momentum
    buffers come out as near to float64's as torch's do (compare.assert_as_accurate).

    Step by step, because the roundings of 16-bit parameters add up to a random walk, in which the
    better arithmetic may well end further away.
    """
    peers = clone_params(params)
    reference = torch.optim.SGD(peers, **options)
    for step, gradients in enumerate(make_gradients(params, steps)):
        runs = []
        for make, dtype in ((make_optimizer, None), (torch.optim.SGD, torch.float64)):
            own = clone_params(peers, dtype)
            optimizer = make(own, **options)
            state = copy.deepcopy(reference.state_dict()["state"])  # loading alone would share it
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            run(optimizer, own, [gradients])
            runs.append((optimizer, own))
        terms = [p.detach().abs() + g.abs() for p, g in zip(peers, gradients, strict=True)]
        if step and options.get("momentum"):
            terms = [t + b.abs() for t, b in zip(terms, buffers(reference, peers), strict=True)]
        run(reference, peers, [gradients])
        (optimizer, got), (exact_optimizer, exact) = runs
        for i, (g, p, e, t) in enumerate(zip(got, peers, exact, terms, strict=True)):
            assert_as_accurate(g.detach(), p.detach(), e, t, name=f"step {step}, params[{i}]")
        if options.get("momentum"):
            triples = zip(
                *(
                    buffers(*of)
                    for of in ((optimizer, got), (reference, peers), (exact_optimizer, exact))
                ),
                strict=True,
            )
            for i, (triple, t) in enumerate(zip(triples, terms, strict=True)):
                assert_as_accurate(*triple, t, name=f"step {step}, momentum_buffers[{i}]")
