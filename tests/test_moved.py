"""Models moved to another dtype by .to, .half, .double and .bfloat16: before training, and amid
it."""

import copy

import pytest
import torch
from compare import assert_as_accurate, assert_bits_equal
from inputs import randn
from torch import nn

import gdext

MOVES = {
    "half": (lambda model: model.half(), torch.float16),
    "double": (lambda model: model.double(), torch.float64),
    "bfloat16": (lambda model: model.bfloat16(), torch.bfloat16),
    "to": (lambda model: model.to(torch.float64), torch.float64),
}
DTYPE_CHANGES = [
    (torch.float32, torch.float64),
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.bfloat16),
    (torch.float64, torch.float32),
]
CHANGE = pytest.mark.parametrize(
    ("first", "then"), DTYPE_CHANGES, ids=lambda d: str(d).removeprefix("torch.")
)
OPTIONS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}


@pytest.mark.parametrize("move", MOVES)
def test_moved_model_is_torch_s(device, move):
    """The layers, and a loss with class weights."""
    change, dtype = MOVES[move]
    ours = gdext.nn.MLP([7, 5, 3], "relu", device=device)
    theirs = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)).to(device)
    for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
        p.data.copy_(q.data)
    weight = torch.tensor([0.5, 1.0, 2.0], device=device)
    x, target = randn(4, 7, dtype=dtype, device=device), torch.tensor([0, 2, 1, 1], device=device)
    results = []
    for model, library in ((ours, gdext.nn), (theirs, nn)):
        loss_fn = change(library.CrossEntropyLoss(weight))
        loss = loss_fn(change(model)(x), target)
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    tolerance = 8 * torch.finfo(dtype).eps
    for got, want in zip(*results, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def trained(device, first, then, steps=3):
    """A layer and torch.optim.SGD, moved from one dtype to another after some steps."""
    layer = gdext.nn.Linear(6, 5, device=device, dtype=first)
    optimizer = torch.optim.SGD(layer.parameters(), foreach=False, **OPTIONS)
    step_with_gradients(optimizer, layer, steps)
    return layer.to(then), optimizer


def step_with_gradients(optimizer, layer, steps=1):
    for _ in range(steps):
        for p in layer.parameters():
            p.grad = randn(*p.shape, dtype=p.dtype, device=p.device)
        optimizer.step()


def twin(make, layer, optimizer, dtype=None):
    """Parameters, gradients and momentum buffers copied (to `dtype`), and an optimizer on them."""
    params = [nn.Parameter(p.detach().to(dtype or p.dtype, copy=True)) for p in layer.parameters()]
    own = make(params, **OPTIONS)
    for p, q in zip(params, layer.parameters(), strict=True):
        buffer = optimizer.state[q]["momentum_buffer"]
        p.grad = q.grad.to(p.dtype)
        own.state[p]["momentum_buffer"] = buffer.to(dtype or buffer.dtype, copy=True)
    return own, params


@CHANGE
def test_moved_amid_training(device, first, then):
    """Momentum buffers stay in the dtype that they were made in, and steps go on as torch's: each,
    from where torch's stands, is as near to float64's as torch's is."""
    layer, reference = trained(device, first, then)
    for step in range(4):
        for p in layer.parameters():
            p.grad = randn(*p.shape, dtype=p.dtype, device=device)
        runs = [
            twin(gdext.optim.SGD, layer, reference),
            twin(torch.optim.SGD, layer, reference, torch.float64),
        ]
        terms = [
            p.detach().abs() + p.grad.abs() + reference.state[p]["momentum_buffer"].abs()
            for p in layer.parameters()
        ]
        reference.step()
        for optimizer, _ in runs:
            optimizer.step()
        (ours, got), (exact_optimizer, exact) = runs
        for p, peer, truth, scale in zip(got, layer.parameters(), exact, terms, strict=True):
            assert_as_accurate(p.detach(), peer.detach(), truth, scale, f"step {step}, parameter")
            buffers = [
                o.state[q]["momentum_buffer"]
                for o, q in ((ours, p), (reference, peer), (exact_optimizer, truth))
            ]
            assert buffers[0].dtype == first and p.dtype == then
            assert_as_accurate(*buffers, scale, f"step {step}, momentum buffer")


@CHANGE
def test_loaded_state_takes_the_parameters_dtype(device, first, then):
    layer, reference = trained(device, first, then)
    for make in (gdext.optim.SGD, torch.optim.SGD):
        optimizer = make(layer.parameters(), **OPTIONS)
        optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
        for p in layer.parameters():
            assert_bits_equal(
                optimizer.state[p]["momentum_buffer"],
                reference.state[p]["momentum_buffer"].to(then),
            )
        step_with_gradients(optimizer, layer)


def test_moved_amid_training_with_a_grad_scaler(device):
    """The gradients are stored back unscaled, and a skipped step changes nothing."""
    layer, reference = trained(device, torch.float32, torch.float64)
    optimizer, params = twin(gdext.optim.SGD, layer, reference)
    scaler = torch.amp.GradScaler(device, init_scale=4.0)
    tensors = params + [optimizer.state[p]["momentum_buffer"] for p in params]
    for step in range(2):
        gradients = [randn(*p.shape, device=device) for p in params]
        before = [t.detach().clone() for t in tensors]
        for p, g in zip(params, gradients, strict=True):
            p.grad = g * scaler.get_scale()
        if step == 0:
            params[1].grad[0] = float("inf")
        scaler.scale(torch.ones((), device=device))  # makes the scaler's tensors
        scaler.step(optimizer)
        scaler.update()
        if step == 0:
            for t, b in zip(tensors, before, strict=True):
                assert_bits_equal(t.detach(), b)
        else:
            assert not any(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))
            for p, g in zip(params, gradients, strict=True):
                assert_bits_equal(p.grad, g)


def test_error_after_a_move_changes_nothing(device):
    layer, reference = trained(device, torch.float32, torch.float64)
    optimizer, params = twin(gdext.optim.SGD, layer, reference)
    optimizer.state[params[1]]["momentum_buffer"] = torch.zeros(9, device=device)
    before = [p.detach().clone() for p in params]
    with pytest.raises(RuntimeError, match=r"momentum_buffers\[1\]: wanted shape \[5\]"):
        optimizer.step()
    for p, b in zip(params, before, strict=True):
        assert_bits_equal(p.detach(), b)


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this torch has no grad_dtype")
@pytest.mark.parametrize("momentum", [0, 0.9])
def test_gradient_of_another_dtype(device, momentum):
    """float32 gradients of bfloat16 parameters: the momentum buffer is float32, as in torch."""
    start, runs = randn(40, dtype=torch.bfloat16), []
    gradients = [randn(40, dtype=torch.float32, device=device) for _ in range(3)]
    for make in (gdext.optim.SGD, torch.optim.SGD):
        p = nn.Parameter(start.to(device, copy=True))
        p.grad_dtype = torch.float32
        optimizer = make([p], 0.1, momentum=momentum, foreach=False)
        for g in gradients:
            p.grad = g
            optimizer.step()
        runs.append((p, optimizer.state[p].get("momentum_buffer")))
    (got, buffer), (want, peer) = runs
    torch.testing.assert_close(got, want, rtol=2**-7, atol=2**-7)
    if momentum:
        assert buffer.dtype == torch.float32
        torch.testing.assert_close(buffer, peer)


def test_fused_trainer_and_a_moved_model():
    """It refuses a momentum buffer of another dtype; a loaded state has the right one."""
    model = gdext.nn.MLP([4, 6, 3])
    optimizer = gdext.optim.SGD(model.parameters(), **OPTIONS)
    trainer = gdext.FusedTrainer(model, optimizer, gdext.nn.MSELoss())
    x, target = randn(8, 4), randn(8, 3)
    trainer.run(x.float(), target.float(), batch_size=4)
    model.double()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ValueError, match=r"momentum buffer of its dtype.*float64.*got torch.float32"
    ):
        trainer.run(x, target, batch_size=4)
    for name, value in model.state_dict().items():
        assert_bits_equal(value, before[name])
    optimizer.load_state_dict(optimizer.state_dict())
    twin_model = copy.deepcopy(model)
    reference = torch.optim.SGD(twin_model.parameters(), **OPTIONS)
    reference.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    trainer.step(x, target)
    nn.functional.mse_loss(twin_model(x), target).backward()
    reference.step()
    for p, q in zip(model.parameters(), twin_model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
