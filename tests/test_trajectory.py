"""A training run: 50 steps of SGD on an MLP, every loss and every gradient, against PyTorch."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from compare import assert_same_vectors, relative_error, to_numpy
from inputs import randn
from torch import nn

import gdext
from gdext.nn import MLP

SIZES, STEPS, BATCH = [784, 64, 32, 10], 50, 32


def batches(dtype, device):
    """STEPS batches of images that belong to ten classes (a prototype each, and noise)."""
    prototypes = randn(10, SIZES[0], seed=0).abs()
    for step in range(STEPS):
        target = torch.randint(0, 10, (BATCH,), generator=torch.Generator().manual_seed(step))
        x = prototypes[target] * 0.3 + randn(BATCH, SIZES[0], seed=100 + step) * 0.2
        # Numbers that every dtype holds, so that all train on the same ones.
        yield x.bfloat16().to(device, dtype), target.to(device)


class Torch(nn.Module):
    """The MLP of plain torch layers, with parameters named as MLP's."""

    def __init__(self, activation):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(SIZES))
        self.activation = activation

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


def train(model, optimizer, loss_function, dtype, device):
    """Per step: the loss, and the gradients by parameter name."""
    losses, gradients = [], []
    for x, target in batches(dtype, device):
        optimizer.zero_grad()
        loss = loss_function(model(x), target)
        loss.backward()
        losses.append(loss.detach())
        named = model.named_parameters()
        gradients.append({n.removeprefix("layers."): p.grad.detach().clone() for n, p in named})
        optimizer.step()
    return torch.stack(losses), gradients


def one_hot(loss):
    return lambda y, target: loss(y, F.one_hot(target, 10).to(y.dtype))


LOSSES = {
    "cross_entropy": (F.cross_entropy, gdext.functional.cross_entropy),
    "mse": (one_hot(F.mse_loss), one_hot(gdext.functional.mse_loss)),
}


def run(engine, loss, activation, dtype, device):
    torch.manual_seed(7)
    start = MLP(SIZES, activation=activation).state_dict()
    if engine == "gdext":
        model, kind = MLP(SIZES, activation=activation), gdext.optim.SGD
        model.load_state_dict(start)
    else:
        model, kind = Torch(getattr(F, activation)), torch.optim.SGD
        model.layers.load_state_dict(start)
    model.to(device, dtype)
    optimizer = kind(model.parameters(), lr=0.05, momentum=0.9)
    return train(model, optimizer, LOSSES[loss][engine == "gdext"], dtype, device)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_float64(device, loss, activation):
    want_losses, want = run("torch", loss, activation, torch.float64, device)
    losses, gradients = run("gdext", loss, activation, torch.float64, device)
    assert want_losses[-5:].mean() < 0.5 * want_losses[:5].mean(), "nothing was learnt: no test"
    torch.testing.assert_close(losses, want_losses, rtol=1e-10, atol=0)
    for step, (g, w) in enumerate(zip(gradients, want, strict=True)):
        try:
            assert_same_vectors(g, w, 1e-9)
        except AssertionError as error:
            raise AssertionError(f"step {step}: {error}") from None


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_diverges_no_faster_than_torch_s(device, loss):
    exact_losses, exact = run("torch", loss, "tanh", torch.float64, device)
    peer_losses, peer = run("torch", loss, "tanh", torch.float32, device)
    losses, gradients = run("gdext", loss, "tanh", torch.float32, device)
    eps = torch.finfo(torch.float32).eps

    def limit(divergence, floor):
        """Twice the largest divergence so far: rounding errors grow from step to step."""
        return [2 * max(divergence[: step + 1]) + floor for step in range(STEPS)]

    def errors(values):
        return (abs(to_numpy(values) - to_numpy(exact_losses)) / to_numpy(exact_losses)).tolist()

    for step, (e, most) in enumerate(
        zip(errors(losses), limit(errors(peer_losses), 4 * eps), strict=True)
    ):
        assert e <= most, f"step {step}: loss off by {e:.3g}, limit {most:.3g}"
    for name in exact[0]:
        ours, theirs = (
            [relative_error(g[name], w[name]) for g, w in zip(run_, exact, strict=True)]
            for run_ in (gradients, peer)
        )
        for step, (e, most) in enumerate(zip(ours, limit(theirs, 4 * eps), strict=True)):
            assert e <= most, f"step {step}: {name}.grad off by {e:.3g}, limit {most:.3g}"
