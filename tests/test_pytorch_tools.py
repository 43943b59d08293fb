"""Tools of PyTorch that look into a model or make it anew, on gdext's layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

import gdext

SIZES = [6, 8, 3]


def models(device):
    """The same network of gdext's parts and of torch's, and an input."""
    ours = gdext.nn.MLP(SIZES, activation="tanh", device=device, dtype=torch.float64)
    theirs = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(device, torch.float64)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        other.data.copy_(mine.data)
    return ours, theirs, torch.randn(5, 6, device=device, dtype=torch.float64)


def outcome(model, *args):
    """The output, and the gradients of its sum."""
    model.zero_grad()
    y = model(*args)
    y.sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters())]


def assert_same(got, want):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_symbolic_trace(device):
    ours, theirs, x = models(device)
    traced = torch.fx.symbolic_trace(ours)
    calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert calls == [gdext.functional.linear] * 2
    assert_same(outcome(traced, x), outcome(theirs, x))


class WithLoss(nn.Module):
    def __init__(self, model, loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, x, target):
        return self.loss(self.model(x), target)


@pytest.mark.parametrize(
    ("loss", "function"),
    [
        (gdext.nn.MSELoss(reduction="sum"), gdext.functional.mse_loss),
        (
            gdext.nn.CrossEntropyLoss(ignore_index=7, reduction="none", label_smoothing=0.1),
            gdext.functional.cross_entropy,
        ),
    ],
    ids=["mse", "cross_entropy"],
)
def test_symbolic_trace_of_a_loss(loss, function):
    """With its options, and those of deprecated names."""
    ours, _, x = models("cpu")
    module = WithLoss(ours, loss)
    target = torch.arange(5) % 3
    if function is gdext.functional.mse_loss:
        target = nn.functional.one_hot(target, 3).to(x.dtype)
    traced = torch.fx.symbolic_trace(module)
    calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert calls == [gdext.functional.linear] * 2 + [function]
    assert_same(outcome(traced, x, target), outcome(module, x, target))
    old = torch.fx.symbolic_trace(lambda x, target: function(x, target, size_average=False))
    assert torch.equal(old(ours(x), target), function(ours(x), target, reduction="sum"))


def test_inference_mode(device):
    ours, theirs, x = models(device)
    with torch.inference_mode():
        y = ours(x)
        assert y.is_inference()
        assert_same([y], [theirs(x)])


def test_enable_grad_within_inference_mode(device):
    """Gives no graph, whether the input is an inference tensor or not."""
    ours, theirs, x = models(device)
    with torch.inference_mode(), torch.enable_grad():
        for x_ in (x, x.clone()):
            for got, want in ((ours(x_), theirs(x_)), (ours[0](x_), theirs[:2](x_))):
                for y in (got, want, gdext.functional.mse_loss(got, want)):
                    assert y.is_inference() and not y.requires_grad
                assert_same([got], [want])


def test_saved_tensors_hooks(device):
    ours, theirs, x = models(device)
    with torch.autograd.graph.save_on_cpu():
        got = outcome(ours, x)
    assert_same(got, outcome(theirs, x))


@pytest.mark.parametrize("assign", [False, True])
def test_meta_device(device, assign):
    ours, theirs, x = models(device)
    with torch.device("meta"):
        model = gdext.nn.MLP(SIZES, activation="tanh", dtype=torch.float64)
    y = model(x.to("meta"))
    assert y.is_meta and y.shape == (5, 3)
    if not assign:
        model.to_empty(device=device)
    model.load_state_dict(ours.state_dict(), assign=assign)
    assert_same(outcome(model, x), outcome(theirs, x))


def test_fake_tensors(device):
    with FakeTensorMode():
        model = gdext.nn.MLP(SIZES, device=device)
        y, *grads = outcome(model, torch.randn(5, 6, device=device))
    assert y.shape == (5, 3)
    assert [g.shape for g in grads] == [(8, 6), (8,), (3, 8), (3,)]


def test_profiler():
    ours, _, x = models("cpu")
    with profile(activities=[ProfilerActivity.CPU]) as run:
        outcome(ours, x)
    names = {event.key for event in run.key_averages()}
    assert {"gdext::linear", "gdext::linear_backward", "LayersBackward"} <= names


def test_deterministic_algorithms(device):
    ours, _, x = models(device)
    optimizer = gdext.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    torch.use_deterministic_algorithms(True)
    try:
        outcome(ours, x)
        optimizer.step()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_is_refused():
    ours, _, x = models("cpu")
    with pytest.raises(torch.jit.TracingCheckError):
        torch.jit.trace(ours, x)
    with pytest.raises((ValueError, RuntimeError)):
        torch.jit.script(ours)


def test_nested_tensors_are_refused():
    ours, _, x = models("cpu")
    with pytest.raises(NotImplementedError, match="gdext::linear"):
        ours(torch.nested.nested_tensor([x, x[:2]], layout=torch.jagged))


def test_functionalize_is_refused():
    ours, _, x = models("cpu")
    with pytest.raises(RuntimeError, match="Functionalize"):
        torch.func.functionalize(ours)(x)


def test_a_curved_layer_keeps_its_input_for_the_second_derivative(device):
    for activation, kept in (("tanh", True), ("relu", False)):
        layer = gdext.nn.Linear(3, 2, activation=activation, device=device).requires_grad_(False)
        x = torch.randn(4, 3, device=device, requires_grad=True) * 1
        y = layer(x)
        x.add_(1)
        if kept:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()
        else:
            y.sum().backward()


def test_a_compiled_layer_within_an_mlp_is_not_called(device):
    ours, _, x = models(device)
    want = ours(x)
    called = []
    for layer in ours.children():
        layer.compile(backend=lambda *args: called.append(args))
    assert torch.equal(ours(x), want) and not called


def test_quantize_dynamic_leaves_gdext_layers_as_they_are():
    model = nn.Sequential(gdext.nn.Linear(3, 2), nn.Linear(2, 2))
    model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert type(model[0]) is gdext.nn.Linear
    assert type(model[1]) is not nn.Linear
