"""gdext.gradients: the engines agree with autograd and count what their formulas say."""

from __future__ import annotations

import math
import signal
import time
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import randn, seeds
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import gdext
from gdext import gradients

EXACT = ("backprop", "forward_mode", "path_sum")
ENGINE = pytest.mark.parametrize("engine", list(gradients.ENGINES))
MSE = gdext.nn.MSELoss()
f64 = torch.float64


def true_gradients(model, loss, x, y):
    """By autograd through torch's own layers, in float64."""
    plain = nn.Sequential()
    for layer in model:
        copy = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, dtype=f64)
        copy.load_state_dict(layer.state_dict())
        plain.append(copy)
        if layer.activation is not None:
            plain.append(TORCH_ACTIVATION[layer.activation]())
    C = loss(plain(x.double()), y.double() if y.is_floating_point() else y)
    return C.detach(), torch.autograd.grad(C, list(plain.parameters()))


TORCH_ACTIVATION = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "silu": nn.SiLU, "relu": nn.ReLU}

networks = st.fixed_dictionaries({
    "sizes": st.lists(st.integers(1, 4), min_size=2, max_size=5),
    "activation": st.sampled_from([None, *TORCH_ACTIVATION]),
    "output_activation": st.sampled_from([None, "sigmoid"]),
    "bias": st.booleans(),
})  # fmt: skip


def close(got, wanted, tolerance):
    scale = max(float(w.abs().max()) for w in wanted)
    worst = max(float((g - w).abs().max()) for g, w in zip(got, wanted, strict=True))
    assert worst <= tolerance * scale, (worst, scale)


@settings(max_examples=60)
@given(networks, st.integers(1, 3), st.sampled_from(["mse", "cross_entropy"]), seeds)
def test_all_engines_agree_with_autograd(network, B, loss, seed):
    torch.manual_seed(seed)
    model = gdext.nn.MLP(**network, dtype=f64)
    outputs = network["sizes"][-1]
    x = torch.randn(B, network["sizes"][0], dtype=f64)
    if loss == "mse":
        ours, theirs, y = MSE, nn.MSELoss(), torch.randn(B, outputs, dtype=f64)
    else:
        ours, theirs = gdext.nn.CrossEntropyLoss(), nn.CrossEntropyLoss()
        y = torch.randint(outputs, (B,))
    C, wanted = true_gradients(model, theirs, x, y)
    for engine in gradients.ENGINES:
        found = gradients.compute(engine, model, ours, x, y)
        assert list(found.grads) == [name for name, _ in model.named_parameters()]
        assert float(found.loss) == pytest.approx(float(C), rel=1e-12, abs=1e-15)
        assert found.multiplications == gradients.cost(engine, model, B)
        if engine in EXACT:
            assert found.errors is None
            close(found.grads.values(), wanted, 1e-12)
            continue
        assert list(found.errors) == list(found.grads)
        for name, w in zip(found.grads, wanted, strict=True):
            off = (found.grads[name] - w).abs()
            assert (off <= found.errors[name]).all(), (name, off, found.errors[name])
            if network["activation"] != "relu":  # whose kinks may be near
                assert (found.errors[name] < 1e-6).all()


@ENGINE
def test_float32(engine):
    model = gdext.nn.MLP([3, 4, 4, 2], "tanh")
    x, y = randn(5, 3, dtype=torch.float32), randn(5, 2, dtype=torch.float32)
    _, wanted = true_gradients(model, nn.MSELoss(), x, y)
    found = gradients.compute(engine, model, MSE, x, y)
    assert {g.dtype for g in found.grads.values()} == {torch.float32}
    if engine in EXACT:
        close(found.grads.values(), wanted, 1e-6)
    else:
        for name, w in zip(found.grads, wanted, strict=True):
            assert ((found.grads[name] - w).abs() <= found.errors[name]).all()
            assert (found.errors[name] < 5e-3).all()


def test_the_error_estimate_where_truncation_is_the_larger_part():
    """C = sigmoid(20 w): d3C/dw3 is of the order of 20^3."""
    model = gdext.nn.MLP([1, 1], output_activation="sigmoid", bias=False, dtype=f64)
    with torch.no_grad():
        model[0].weight.fill_(0.02)
    x = torch.full((1, 1), 20.0, dtype=f64)
    exact = gradients.backprop(model, lambda o, y: o.sum(), x, x).grads["0.weight"]
    found = gradients.finite_difference(model, lambda o, y: o.sum(), x, x)
    off, error = (found.grads["0.weight"] - exact).abs().item(), found.errors["0.weight"].item()
    assert 1e-9 < off <= error < 2 * off


@ENGINE
def test_it_changes_nothing(engine):
    model = gdext.nn.MLP([2, 3, 1], "tanh", dtype=f64)
    model[0].weight.requires_grad_(False)  # it is given a gradient all the same
    before = {name: p.clone() for name, p in model.named_parameters()}
    x, y = randn(2, 2), randn(2, 1)
    state = torch.get_rng_state()
    found = gradients.compute(engine, model, MSE, x, y)
    assert found.model is model
    assert found.seconds > 0
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) and p.grad is None
        assert p.requires_grad == (name != "0.weight")
        assert found.grads[name].shape == p.shape
    assert torch.equal(torch.get_rng_state(), state)


@ENGINE
def test_modes_of_torch_around_it(engine):
    model, x, y = gdext.nn.MLP([2, 3, 1], "tanh", dtype=f64), randn(2, 2), randn(2, 1)
    wanted = gradients.compute(engine, model, MSE, x, y).grads
    modes = [torch.no_grad(), torch.inference_mode(), torch.device("meta"), torch.autocast("cpu")]
    for mode in modes:
        with mode:
            found = gradients.compute(engine, model, MSE, x, y).grads
        assert all(torch.equal(found[name], g) for name, g in wanted.items()), mode


def test_parameters_with_strides():
    model = gdext.nn.MLP([3, 4, 2], "tanh", dtype=f64)
    with torch.no_grad():
        model[0].weight = nn.Parameter(randn(3, 4).T)
        model[1].bias = nn.Parameter(randn(4)[::2])
    x, y = randn(3, 5).T, randn(5, 2)
    _, wanted = true_gradients(model, nn.MSELoss(), x, y)
    for engine in EXACT:
        close(gradients.compute(engine, model, MSE, x, y).grads.values(), wanted, 1e-12)


@ENGINE
def test_from_sizes(engine):
    torch.manual_seed(5)
    found = gradients.compute(engine, [3, 2, 1], MSE, randn(4, 3), randn(4, 1))
    assert [layer.activation for layer in found.model] == ["tanh", None]
    torch.manual_seed(5)
    again = gradients.compute(engine, [3, 2, 1], MSE, randn(4, 3), randn(4, 1))
    assert all(torch.equal(again.grads[name], g) for name, g in found.grads.items())


def test_images_and_torchs_own_layers():
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    x, y = randn(4, 2, 3), torch.tensor([0, 1, 1, 0])
    wanted = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
    found = gradients.backprop(model, nn.CrossEntropyLoss(), x, y)
    assert list(found.grads) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    close(found.grads.values(), wanted, 1e-12)


# Sizes 2-3-1 with tanh between, 2 samples, counted by hand. Forward: 2 (2*3 + 3*1) = 18.
BY_HAND = {
    # forward; dw 2 (6 + 3), slopes 2*3, da 2*3
    "backprop": 18 + 18 + 6 + 6,
    # forward; 9 parameters below: slope 6, product 6, by dy 2; 4 above: by dy 2
    "forward_mode": 18 + 9 * (6 + 6 + 2) + 4 * 2,
    # 13 parameters, four forward passes each, and one
    "finite_difference": 18 * (4 * 13 + 1),
    # forward; per sample 6 weights with s, w, a besides dy; 3 biases without a; 3 weights with a; 1
    "path_sum": 18 + 2 * (6 * 3 + 3 * 2 + 3 * 1 + 0),
}


@ENGINE
def test_counts_by_hand(engine):
    found = gradients.compute(engine, [2, 3, 1], MSE, randn(2, 2), randn(2, 1))
    assert found.multiplications == BY_HAND[engine]
    assert gradients.cost(engine, [2, 3, 1], 2) == BY_HAND[engine]


class Multiplications(TorchDispatchMode):
    """Counts those of the ops that are called, by their shapes, apart from any formula."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **(kwargs or {}))
        if str(op) == "gdext.linear.default":
            self.count += args[0].shape[0] * args[1].numel()
        elif str(op) == "gdext.linear_backward.default":
            dy, w, activation = args[0], args[3], args[4]
            products = sum(t.dim() == 2 and t.numel() > 0 for t in result if t is not None)
            self.count += products * dy.shape[0] * w.numel() + (activation != 0) * dy.numel()
        elif op in (torch.ops.aten.mul.Tensor, torch.ops.aten.mul_.Tensor):
            self.count += result.numel()
        return result


@pytest.mark.parametrize("engine", ["backprop", "forward_mode", "finite_difference"])
@pytest.mark.parametrize("sizes", [[1, 1], [2, 3, 2, 4], [3, 1, 4, 1, 5]], ids=str)
def test_counts_of_the_ops_that_were_called(engine, sizes):
    model = nn.Sequential(*(
        gdext.nn.Linear(I, O, l % 2 == 0, [None, "tanh", "sigmoid"][l % 3], dtype=f64)
        for l, (I, O) in enumerate(pairwise(sizes))
    ))  # fmt: skip
    with Multiplications() as seen:
        found = gradients.compute(engine, model, lambda o, y: o.sum(), randn(3, sizes[0]), randn(3))
    assert found.multiplications == seen.count == gradients.cost(engine, model, 3)


def test_a_cost_of_sizes_draws_nothing():
    before = torch.get_rng_state()
    assert gradients.cost("backprop", [100_000, 100_000]) == 2 * 10**10
    assert torch.equal(torch.get_rng_state(), before)


def test_growth_with_the_number_of_layers():
    def costs(engine, width=3, most=12):
        return [gradients.cost(engine, [width] * (L + 1)) for L in range(1, most + 1)]

    def differences(values):
        return [b - a for a, b in pairwise(values)]

    once = differences(costs("backprop"))
    assert len(set(once)) == 1 and once[0] > 0
    for engine in ("forward_mode", "finite_difference"):
        third = differences(differences(differences(costs(engine))))
        assert set(third[1:]) == {0} and differences(differences(costs(engine)))[-1] > 0
    for width in (2, 3, 5):
        paths = costs("path_sum", width, 40)
        per_layer = [c / L for L, c in enumerate(paths, 1)]
        assert per_layer[-1] / per_layer[-2] == pytest.approx(width, rel=0.02)


def test_number_of_paths():
    # Layer 2: (3 + 1) weights and bias, one output each; layer 1: 3 units of 2 + 1, one path each.
    assert gradients.path_count([2, 3, 1]) == 4 + 9
    assert gradients.path_count([2, 3, 1], 7) == 7 * 13
    assert gradients.path_count([3] * 21) == sum(4 * 3**n for n in range(1, 21))


def test_too_many_paths_are_refused():
    model = gdext.nn.MLP([3] * 41, "tanh", dtype=f64)
    x = y = randn(2, 3)
    count = gradients.path_count(model, 2)
    assert count > 10**19  # not even an int64
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=rf"at most 1,000,000,000 paths .*, got {count:,}: 2 s"):
        gradients.path_sum(model, MSE, x, y)
    assert time.perf_counter() - begin < 1
    with pytest.raises(ValueError, match=r"path_sum: wanted fewer than 9e\+18 multiplications"):
        gradients.path_sum(model, MSE, x, y, limit=10**30)
    small = gdext.nn.MLP([2, 3, 1], "tanh", dtype=f64)
    x, y = randn(1, 2), randn(1, 1)
    gradients.path_sum(small, MSE, x, y, limit=13)
    with pytest.raises(ValueError, match=r"at most 12 paths \(limit\), got 13: 1 samples times 13"):
        gradients.path_sum(small, MSE, x, y, limit=12)
    x, y = randn(2, 2), randn(2, 1)
    with pytest.raises(ValueError, match=r"at most 25 paths \(limit\), got 26: 2 samples times 13"):
        gradients.path_sum(small, MSE, x, y, limit=25)


def test_ctrl_c_stops_path_sum():
    model = gdext.nn.MLP([3] * 21, "tanh", dtype=f64)  # minutes
    x = y = randn(1, 3)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    begin = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            gradients.path_sum(model, MSE, x, y, limit=10**12)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert 0.1 < time.perf_counter() - begin < 10


def test_an_update_by_any_engine_is_the_same_update():
    x, y = randn(4, 3), randn(4, 2)
    after = []
    for engine in EXACT:
        torch.manual_seed(1)
        model = gdext.nn.MLP([3, 4, 2], "tanh", dtype=f64)
        optimizer = gdext.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            found = gradients.compute(engine, model, MSE, x, y)
            for name, p in model.named_parameters():
                p.grad = found.grads[name]
            optimizer.step()
        after.append([p.detach() for p in model.parameters()])
    for other in after[1:]:
        close(other, after[0], 1e-12)
    assert math.isfinite(float(after[0][0].sum()))
