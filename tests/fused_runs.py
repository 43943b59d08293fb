"""Runs of gdext.FusedTrainer, and the same steps taken by the ordinary loop."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from compare import assert_bits_equal
from inputs import randn
from torch import nn

import gdext

ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "scaled_tanh": lambda z: 1.7159 * torch.tanh(2 / 3 * z),
    "softplus": F.softplus,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
}


class Twin(nn.Module):
    """A gdext.nn.MLP's network on PyTorch's own functions, with copies of its parameters."""

    def __init__(self, model, dtype):
        super().__init__()
        self.weights = nn.ParameterList(l.weight.detach().to(dtype, copy=True) for l in model)
        biases = [l.bias for l in model if l.bias is not None]
        self.biases = nn.ParameterList(b.detach().to(dtype, copy=True) for b in biases)
        self.activations = [layer.activation or "identity" for layer in model]

    def forward(self, x):
        for i, (w, name) in enumerate(zip(self.weights, self.activations, strict=True)):
            bias = self.biases[i] if len(self.biases) else None
            x = ACTIVATIONS[name](F.linear(x, w, bias))
        return x

    def in_order(self):
        """The parameters in the order of the model's."""
        if not len(self.biases):
            return list(self.weights)
        return [p for pair in zip(self.weights, self.biases, strict=True) for p in pair]


def loop(model, optimizer, loss, inputs, targets, batch_size, order=None, lr=None):
    """What FusedTrainer.run does, in PyTorch's form. lr: [steps, groups]."""
    order = torch.arange(len(inputs)) if order is None else order
    losses = []
    for step, batch in enumerate(order.split(batch_size)):
        if lr is not None:
            for group, rate in zip(optimizer.param_groups, lr[step].tolist(), strict=True):
                group["lr"] = rate
        optimizer.zero_grad()
        value = loss(model(inputs[batch]), targets[batch])
        value.backward()
        optimizer.step()
        losses.append(value.detach().double())
    return torch.stack(losses)


def data(sizes, samples, loss, dtype=torch.float64, seed=1):
    """Inputs and targets that fit a network of `sizes`, in numbers that every dtype holds."""
    x = randn(samples, sizes[0], seed=seed).bfloat16().to(dtype)
    if loss == "mse":
        return x, randn(samples, sizes[-1], seed=seed + 1).bfloat16().to(dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    return x, torch.randint(sizes[-1], (samples,), generator=generator)


LOSSES = {"cross_entropy": nn.CrossEntropyLoss, "mse": nn.MSELoss}
SGD = {"lr": 0.1, "momentum": 0.9}


class Pair:
    """A FusedTrainer and its twin, from the same parameters, with SGD of the same options."""

    def __init__(self, model, loss, options=None, dtype=torch.float64, twin_dtype=torch.float64):
        self.model, self.loss = model.to(dtype), loss
        self.twin, self.twin_loss = Twin(model, twin_dtype), copy.deepcopy(loss).to(twin_dtype)
        options = SGD if options is None else options
        self.optimizer = gdext.optim.SGD(model.parameters(), **options)
        self.twin_optimizer = torch.optim.SGD(self.twin.in_order(), **options)
        self.trainer = gdext.FusedTrainer(model, self.optimizer, loss)

    def split_groups(self, *groups):
        """The parameters dealt out in turn to groups with these options."""
        for kind, name in ((gdext.optim.SGD, "optimizer"), (torch.optim.SGD, "twin_optimizer")):
            params = [*self.model.parameters()] if name == "optimizer" else self.twin.in_order()
            dealt = [{"params": params[i :: len(groups)], **g} for i, g in enumerate(groups)]
            setattr(self, name, kind(dealt, lr=0.1))
        self.trainer = gdext.FusedTrainer(self.model, self.optimizer, self.loss)

    def run(self, x, y, batch_size, order=None, lr=None):
        """Both take the steps; the losses of each."""
        got = self.trainer.run(x, y, batch_size, order=order, lr=lr)
        y = y.to(self.twin.weights[0].dtype) if y.is_floating_point() else y
        x = x.to(self.twin.weights[0].dtype)
        want = loop(self.twin, self.twin_optimizer, self.twin_loss, x, y, batch_size, order, lr)
        return got, want

    def states(self):
        """Names with the trainer's tensors, and with the twin's: parameters and momenta."""
        results = []
        for params, optimizer in (
            (list(self.model.parameters()), self.optimizer),
            (self.twin.in_order(), self.twin_optimizer),
        ):
            named = {f"params[{i}]": p.detach() for i, p in enumerate(params)}
            for i, p in enumerate(params):
                if "momentum_buffer" in optimizer.state.get(p, {}):
                    named[f"momentum_buffers[{i}]"] = optimizer.state[p]["momentum_buffer"]
            results.append(named)
        return results

    def assert_equal(self, got, want, tolerance=1e-11):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
        mine, theirs = self.states()
        assert list(mine) == list(theirs)
        for name, tensor in mine.items():
            torch.testing.assert_close(
                tensor, theirs[name], rtol=tolerance, atol=tolerance,
                msg=lambda text, name=name: f"{name}: {text}",
            )  # fmt: skip


def mlp(*sizes, activation="relu", bias=True, dtype=torch.float64, output_activation=None):
    torch.manual_seed(3)
    return gdext.nn.MLP(
        sizes, activation, output_activation=output_activation, bias=bias, dtype=dtype
    )


def torch_mlp(*sizes, activation=nn.ReLU):
    """The same as torch.nn modules."""
    layers = []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), activation()]
    return nn.Sequential(*layers[:-1])


def parts(pair):
    """Everything that a step may change."""
    state = [(p, dict(s)) for p, s in pair.optimizer.state.items()]
    return copy.deepcopy(
        [
            [p.detach() for p in pair.model.parameters() if p.device.type == "cpu"],
            [s.get("momentum_buffer") for _, s in state],
        ]
    )


def assert_unchanged(pair, before):
    for got, want in zip(parts(pair), before, strict=True):
        for g, w in zip(got, want, strict=True):
            assert_bits_equal(g, w)


def assert_refused(call, error, text):
    with pytest.raises(error) as raised:
        call()
    assert type(raised.value) is error
    assert str(raised.value) == text
