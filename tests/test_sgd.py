"""The SGD update's numbers, against torch.optim.SGD's."""

import itertools

import pytest
import torch
from compare import assert_as_accurate, assert_bits_equal
from sgd import (
    DTYPES,
    INVALID,
    STEPS,
    VALID,
    assert_steps_as_accurate,
    buffers,
    clone_params,
    make_gradients,
    make_params,
    run,
)
from torch import nn

import gdext


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["lr", "tensor_lr"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", VALID)
def test_steps_match_torch(device, dtype, options, tensor_lr):
    lr = torch.tensor(0.1, dtype=torch.float64, device=device) if tensor_lr else 0.1
    params = make_params(device, dtype)
    assert_steps_as_accurate(gdext.optim.SGD, params, {"lr": lr, **options})


@pytest.mark.parametrize("options", VALID)
def test_trajectory_matches_torch(device, options):
    params = make_params(device, torch.float64)
    peers = clone_params(params)
    gradients = make_gradients(params, STEPS)
    run(gdext.optim.SGD(params, 0.1, **options), params, gradients)
    run(torch.optim.SGD(peers, 0.1, **options), peers, gradients)
    for p, peer in zip(params, peers, strict=True):
        torch.testing.assert_close(p, peer, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("options", INVALID)
def test_nesterov_needs_momentum_and_no_dampening(options):
    with pytest.raises(
        ValueError, match="Nesterov momentum requires a momentum and zero dampening"
    ):
        gdext.optim.SGD(make_params("cpu"), 0.1, **options)


def planted(**fault):
    """gdext.optim.SGD that steps with other options than it was asked for."""

    def make(params, **options):
        changed = {name: change(options[name]) for name, change in fault.items()}
        return gdext.optim.SGD(params, **{**options, **changed})

    return make


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "fault",
    [
        {"nesterov": lambda value: not value},
        {"maximize": lambda value: not value},
        {"weight_decay": lambda _: 0.0},
        {"momentum": lambda value: 0.9 * value},
        {"lr": lambda value: 1.5 * value},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_comparison_sees_planted_faults(device, dtype, fault):
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2, "nesterov": True, "maximize": False}
    params = make_params(device, dtype)
    assert_steps_as_accurate(gdext.optim.SGD, params, options)
    with pytest.raises(AssertionError, match=r"params|momentum_buffers"):
        assert_steps_as_accurate(planted(**fault), params, options)


def test_comparison_sees_dampening(device):
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}
    with pytest.raises(AssertionError, match=r"params|momentum_buffers"):
        assert_steps_as_accurate(planted(dampening=lambda _: 0.29), make_params(device), options)


def test_dampening_near_one_keeps_its_digits(device):
    options = {"lr": 0.1, "momentum": 0.5, "dampening": 1 - 1e-6}
    params = make_params(device)
    exact, gradients = clone_params(params, torch.float64), make_gradients(params, 2)
    optimizer, reference = gdext.optim.SGD(params, **options), torch.optim.SGD(exact, **options)
    gradients[0] = [torch.zeros_like(g) for g in gradients[0]]  # m is then (1 - dampening) g alone
    run(optimizer, params, gradients)
    run(reference, exact, gradients)
    for got, want in zip(buffers(optimizer, params), buffers(reference, exact), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=0)


def test_momentum_that_rounds_to_zero_still_fills_its_buffer(device):
    params = make_params(device)
    gradients = make_gradients(params, 1)
    optimizer = gdext.optim.SGD(params, 0.1, momentum=1e-60)
    run(optimizer, params, gradients)
    for buffer, g in zip(buffers(optimizer, params), gradients[0], strict=True):
        assert_bits_equal(buffer, g)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_result_does_not_depend_on_the_split(device, dtype):
    """Each element by itself, one tensor of all elements, one thread or many: the same bits."""
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}
    whole = make_params(device, dtype, [(70_001,)])
    pieces = [nn.Parameter(piece.clone()) for piece in whole[0].detach().split(997)]
    alone = [nn.Parameter(whole[0].detach().clone())]
    gradients = make_gradients(whole, 3)
    run(gdext.optim.SGD(whole, **options), whole, gradients)
    run(gdext.optim.SGD(pieces, **options), pieces, [g[0].split(997) for g in gradients])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(gdext.optim.SGD(alone, **options), alone, gradients)
    finally:
        torch.set_num_threads(threads)
    assert_bits_equal(torch.cat([p.detach() for p in pieces]), whole[0].detach())
    assert_bits_equal(alone[0].detach(), whole[0].detach())


def test_small_integers_are_exact(device):
    """Powers of two throughout: every backend and instruction set must agree bit for bit."""
    params = [nn.Parameter(torch.randint(-8, 9, (37,), device=device).float())]
    peers = clone_params(params)
    gradients = [[torch.randint(-8, 9, (37,), device=device).float()] for _ in range(4)]
    options = {"lr": 0.5, "momentum": 0.5, "weight_decay": 0.25, "nesterov": True}
    run(gdext.optim.SGD(params, **options), params, gradients)
    run(torch.optim.SGD(peers, **options), peers, gradients)
    assert_bits_equal(params[0].detach(), peers[0].detach())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinity_come_out_where_torch_has_them(device, dtype):
    special = [0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan")]
    p, g = (
        torch.tensor(v, device=device, dtype=dtype)
        for v in zip(*itertools.product(special, special), strict=True)
    )
    for options in ({}, {"momentum": 0.9, "weight_decay": 0.1}):
        got, peer = [nn.Parameter(p.clone())], [nn.Parameter(p.clone())]
        run(gdext.optim.SGD(got, 0.1, **options), got, [[g]] * 2)
        run(torch.optim.SGD(peer, 0.1, **options), peer, [[g]] * 2)
        exact = peer[0].detach().double()
        assert_as_accurate(got[0].detach(), peer[0].detach(), exact)


def test_many_tensors(device):
    shapes = [(n % 7, n % 3 + 1) for n in range(1000)]
    assert_steps_as_accurate(
        gdext.optim.SGD,
        make_params(device, shapes=shapes),
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        steps=2,
    )
