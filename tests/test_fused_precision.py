"""How far gdext.FusedTrainer's rounding takes it from exact steps, and that it rounds alike."""

import copy

import pytest
import torch
from compare import assert_bits_equal, relative_error
from fused_runs import ACTIVATIONS, LOSSES, Pair, Twin, data, loop, mlp
from torch import nn

SIZES = [64, 96, 50, 10]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def permuted(twin, seed):
    """The same network with its hidden units in another order, and so its sums."""
    twin = copy.deepcopy(twin)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for i in range(len(twin.weights) - 1):
            order = torch.randperm(twin.weights[i].shape[0], generator=generator)
            twin.weights[i].copy_(twin.weights[i][order])
            twin.biases[i].copy_(twin.biases[i][order])
            twin.weights[i + 1].copy_(twin.weights[i + 1][:, order])
    return twin


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_200_steps_of_float32(activation, loss, batch_size):
    """Further from float64's by no more than twice what PyTorch's runs differ by among themselves,
    in eight orders of summation. What is compared does not depend on the order of hidden units: the
    losses, the last bias, and the outputs for other inputs."""
    options = {"lr": 0.02, "momentum": 0.9}
    model = mlp(*SIZES, activation=activation, dtype=torch.float32)
    pair = Pair(model, LOSSES[loss](), options, torch.float32)
    peers = [permuted(Twin(model, torch.float32), seed) for seed in range(8)]
    x, y = data(SIZES, 200 * batch_size, loss, torch.float32)
    probe = data(SIZES, 100, loss, torch.float32, seed=9)[0]
    losses, exact_losses = pair.run(x, y, batch_size)

    def seen(network, losses):
        dtype = next(network.parameters()).dtype
        last = network.biases[-1] if isinstance(network, Twin) else network[-1].bias
        with torch.no_grad():
            return {"losses": losses, "bias": last, "outputs": network(probe.to(dtype))}

    exact, got = seen(pair.twin, exact_losses), seen(model, losses)
    apart = {name: [] for name in exact}
    for peer in peers:
        optimizer = torch.optim.SGD(peer.in_order(), **options)
        run = seen(peer, loop(peer, optimizer, LOSSES[loss](), x, y, batch_size))
        for name, want in exact.items():
            apart[name].append(relative_error(run[name], want))
    for name, want in exact.items():
        error, most = relative_error(got[name], want), 2 * max(apart[name])
        assert error <= most, f"{name}: off by {error:.3g}, limit {most:.3g}"
    assert losses[-50:].mean() != losses[:50].mean()


@pytest.mark.parametrize("batch_size", [1, 5, 32])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_few_steps_are_as_accurate_as_pytorch_s(dtype, activation, batch_size):
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
    model = mlp(33, 47, 17, 10, activation=activation, dtype=dtype)
    x, y = data([33, 10], 4 * batch_size, "cross_entropy", dtype)
    start = [p.detach().double().clone() for p in model.parameters()]
    peer = Twin(model, dtype)
    optimizer = torch.optim.SGD(peer.in_order(), **options)
    pair = Pair(model, nn.CrossEntropyLoss(), options, dtype)
    losses, exact_losses = pair.run(x, y, batch_size)
    peer_losses = loop(peer, optimizer, nn.CrossEntropyLoss(), x, y, batch_size)
    eps = torch.finfo(dtype).eps
    exact = pair.twin.in_order()
    for i, p in enumerate(model.parameters()):
        # The change, beside which the parameter itself would hide an error; but a parameter can be
        # stored no better than to half a unit in its last place, at each step.
        moved = (exact[i].detach() - start[i]).norm()
        floor = 4 * eps * exact[i].detach().norm() / moved
        error, theirs = (
            float((q.detach().double() - exact[i].detach()).norm() / moved)
            for q in (p, peer.in_order()[i])
        )
        assert error <= 2 * theirs + floor, f"params[{i}]: off by {error:.3g}, PyTorch {theirs:.3g}"
    error, theirs = (relative_error(v, exact_losses) for v in (losses, peer_losses))
    assert error <= 2 * theirs + eps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_bytes_are_rounded_to_the_dtype(dtype):
    u = torch.randint(256, (40, 24), dtype=torch.uint8)
    _, y = data([24, 5], 40, "cross_entropy")
    x = (u.float() * (1 / 255)).to(dtype)
    runs = []
    for inputs in (u, x):
        pair = Pair(mlp(24, 11, 5), nn.CrossEntropyLoss(), dtype=dtype)
        runs.append([pair.trainer.run(inputs, y, 8), *pair.states()[0].values()])
    for got, want in zip(*runs, strict=True):
        assert_bits_equal(got, want)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 7, 32, 100])
def test_threads(count, batch_size, threads):
    threads(count)
    sizes, options = [100, 256, 130, 10], {"lr": 0.01, "momentum": 0.9}
    x, y = data(sizes, 205, "cross_entropy")
    runs = []
    for _ in range(3):
        pair = Pair(mlp(*sizes), nn.CrossEntropyLoss(), options)
        pair.assert_equal(*pair.run(x, y, batch_size))
        single = Pair(mlp(*sizes), nn.CrossEntropyLoss(), options, torch.float32)
        losses = single.trainer.run(x.float(), y, batch_size)
        runs.append([losses, *single.states()[0].values()])
    for other in runs[1:]:
        for got, want in zip(other, runs[0], strict=True):
            assert_bits_equal(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch_size", [1, 8, 32])
def test_a_run_in_parts_gives_the_same_bits(batch_size, dtype):
    x, y = data(SIZES, 100, "cross_entropy", dtype)
    whole, parts = (Pair(mlp(*SIZES), nn.CrossEntropyLoss(), dtype=dtype) for _ in range(2))
    want = whole.trainer.run(x, y, batch_size)
    cut = 2 * batch_size
    got = [parts.trainer.run(a, b, batch_size) for a, b in ((x[:cut], y[:cut]), (x[cut:], y[cut:]))]
    assert_bits_equal(torch.cat(got), want)
    for a, b in zip(parts.states()[0].values(), whole.states()[0].values(), strict=True):
        assert_bits_equal(a, b)


def test_small_integers_are_exact():
    """Sums that no order of summation rounds."""
    model = mlp(30, 20, 10, activation="relu", dtype=torch.float32)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randint(-2, 3, p.shape))
    pair = Pair(model, nn.MSELoss(reduction="sum"), {"lr": 2.0**-10}, torch.float32)
    x = torch.randint(-2, 3, (32, 30)).float()
    y = torch.randint(-2, 3, (32, 10)).float()
    got, want = pair.run(x, y, 32)
    assert torch.equal(got, want)
    mine, theirs = pair.states()
    for name, tensor in mine.items():
        assert torch.equal(tensor.double(), theirs[name]), name
