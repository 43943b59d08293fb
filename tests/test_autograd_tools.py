"""What PyTorch hangs on autograd: checkpointing, hooks, anomaly mode, functional_call."""

import pytest
import torch
from inputs import leaf, randn
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import gdext


def twins(device="cpu"):
    """An MLP, torch's with the same parameters, an input and classes."""
    ours = gdext.nn.MLP([6, 5, 4, 3], "tanh", device=device, dtype=torch.float64)
    layers = []
    for layer in ours:
        twin = nn.Linear(layer.in_features, layer.out_features, device=device, dtype=torch.float64)
        twin.load_state_dict(layer.state_dict())
        layers += [twin, nn.Tanh()]
    x, classes = randn(7, 6, device=device), torch.arange(7, device=device) % 3
    return (
        (ours, gdext.nn.CrossEntropyLoss()),
        (nn.Sequential(*layers[:-1]), nn.CrossEntropyLoss()),
        x,
        classes,
    )


def linears(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def compare(ours, theirs):
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("whole", [True, False])
def test_checkpoint(device, use_reentrant, whole):
    ours, theirs, x, classes = twins(device)
    results = []
    for model, loss_fn in (ours, theirs):
        x_ = leaf(x)
        if whole:
            y = checkpoint(model, x_, use_reentrant=use_reentrant)
            loss = checkpoint(loss_fn, y, classes, use_reentrant=use_reentrant)
        else:
            y = checkpoint_sequential(nn.Sequential(*model), 2, x_, use_reentrant=use_reentrant)
            loss = loss_fn(y, classes)
        loss.backward()
        results.append([loss.detach(), x_.grad, *(p.grad for p in model.parameters())])
    compare(*results)


def test_module_hooks(device):
    """Forward, forward pre, full backward and backward pre hooks see, and may replace, what torch's
    see."""
    ours, theirs, x, classes = twins(device)
    results = []
    for model, loss_fn in (ours, theirs):
        seen = []
        # of the last layer, which has no activation: fused or not, its output is the same
        layer = linears(model)[-1]
        layer.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
        layer.register_forward_hook(lambda m, args, y, seen=seen: seen.append(y.detach()) or y * 3)
        layer.register_full_backward_pre_hook(lambda m, dy: (dy[0] * 5,))
        layer.register_full_backward_hook(
            lambda m, dx, dy, seen=seen: seen.extend([*dx, *dy]) or (dx[0] * 7,)
        )
        loss_fn.register_full_backward_hook(lambda m, dx, dy, seen=seen: seen.append(dx[0]))
        loss_fn(model(leaf(x)), classes).backward()
        results.append([*seen, *(p.grad for p in model.parameters())])
    assert len(results[0]) == 4 + 6
    compare(*results)


def test_tensor_hooks(device):
    ours, theirs, x, classes = twins(device)
    results = []
    for model, loss_fn in (ours, theirs):
        seen = []
        x_ = leaf(x)
        weight, bias = linears(model)[0].parameters()
        y = model(x_)
        y.register_hook(lambda dy: dy * 2)
        y.retain_grad()
        x_.register_hook(lambda dx, seen=seen: seen.append(dx))
        weight.register_hook(lambda dw: dw * 3)
        bias.register_post_accumulate_grad_hook(lambda b, seen=seen: seen.append(b.grad.clone()))
        y.grad_fn.register_prehook(lambda dys, seen=seen: seen.append(dys[0]))
        loss_fn(y, classes).backward()
        results.append([y.grad, weight.grad, *sorted(seen, key=lambda t: t.shape)])
    assert len(results[0]) == 5
    compare(*results)


def test_optimizer_in_backward(device):
    """register_post_accumulate_grad_hook with an optimizer of each parameter's own."""
    ours, theirs, x, classes = twins(device)
    results = []
    for (model, loss_fn), kind in ((ours, gdext.optim.SGD), (theirs, torch.optim.SGD)):
        optimizers = {p: kind([p], lr=0.1, momentum=0.9) for p in model.parameters()}

        def update(p, optimizers=optimizers):
            optimizers[p].step()
            p.grad = None

        for p in model.parameters():
            p.register_post_accumulate_grad_hook(update)
        for _ in range(3):
            loss_fn(model(x), classes).backward()
        assert all(p.grad is None for p in model.parameters())
        results.append([p.detach() for p in model.parameters()])
    compare(*results)


def test_anomaly_mode_names_the_forward_line(device):
    """A NaN born in a backward raises, with the function's name; without one, nothing changes."""
    (model, loss_fn), _, x, classes = twins(device)
    with torch.autograd.detect_anomaly(check_nan=True):
        loss_fn(model(leaf(x)), classes).backward()
        y = model[0](leaf(x))
        y.register_hook(lambda dy: dy * float("nan"))
        with pytest.raises(RuntimeError, match=r"LinearBackward.* returned nan values"):
            y.sum().backward()


def test_functional_call(device):
    """Other parameters in the model's place, with their gradients; its own are not touched."""
    ours, theirs, x, classes = twins(device)
    results = []
    for model, loss_fn in (ours, theirs):
        own = [p.detach().clone() for p in model.parameters()]
        others = {n: leaf(p * 2 + 0.1) for n, p in model.named_parameters()}
        loss = loss_fn(functional_call(model, others, (x,)), classes)
        results.append([loss.detach(), *torch.autograd.grad(loss, list(others.values()))])
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), own, strict=True))
    compare(*results)
