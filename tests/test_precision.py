"""Training under torch.autocast and torch.amp.GradScaler, and what sets a precision for the whole
process: matmul precision and the default dtype. All beside PyTorch's own parts."""

import copy

import pytest
import torch
from compare import assert_bits_equal, relative_error
from inputs import randn
from torch import nn

import gdext

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
SIZES, BATCH = [12, 24, 16, 5], 9
OPTIONS = {"lr": 5e-4, "momentum": 0.9, "dampening": 0.2}
FACTOR = 16  # of the loss that is scaled: gradients of some size


def networks(device, activation="tanh", dtype=torch.float32):
    """gdext's network, PyTorch's and PyTorch's in float64, of the same numbers."""
    ours = gdext.nn.MLP(SIZES, activation, device=device, dtype=dtype)
    theirs = nn.Sequential()
    for layer in ours:
        theirs.append(nn.Linear(layer.in_features, layer.out_features, device=device, dtype=dtype))
        theirs.append({"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}[activation]())
    del theirs[-1]
    for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
        p.data.copy_(q.data)
    return ours, theirs, copy.deepcopy(theirs).double()


def data(device, dtype=torch.float32):
    x = randn(BATCH, SIZES[0], dtype=dtype, device=device)
    return x, torch.randint(SIZES[-1], (BATCH,)).to(device)


def assert_as_near(got, peer, exact, eps, name):
    """As vectors, got is off by at most twice what PyTorch's is, and one rounding."""
    assert got.dtype == peer.dtype, f"{name}: {got.dtype}, PyTorch's is {peer.dtype}"
    error, theirs = (relative_error(t, exact) for t in (got, peer))
    assert error <= 2 * theirs + eps, f"{name}: off by {error:.3g}, PyTorch by {theirs:.3g}"


# torch.autocast.


@HALVES
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
@pytest.mark.parametrize("penalty", [False, True], ids=["", "penalty"])
def test_autocast_trains_as_torch(device, dtype, activation, inside, penalty):
    """Outputs, losses and gradients; with a gradient penalty the second derivatives."""
    x, target = data(device)
    results = []
    for model in networks(device, activation):
        exact = next(model.parameters()).dtype == torch.float64
        loss_fn = (gdext.nn if type(model) is gdext.nn.MLP else nn).CrossEntropyLoss()
        x_ = (x.double() if exact else x.clone()).requires_grad_()
        with torch.autocast(device, dtype, enabled=not exact):
            y = model(x_)
            loss = loss_fn(y, target)
            if penalty:
                (dx,) = torch.autograd.grad(loss, x_, create_graph=True)
                loss = loss + dx.square().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        grads = {f"grad of {n}": p.grad for n, p in model.named_parameters()}
        results.append({"y": y, "loss": loss, "dx": x_.grad, **grads})
    got, peer, exact = (list(r.values()) for r in results)
    assert got[0].dtype == dtype and got[1].dtype == got[2].dtype == torch.float32
    for name, *values in zip(results[0], got, peer, exact, strict=True):
        assert_as_near(*values, torch.finfo(dtype).eps, name)


def test_autocast_switched_off_within(device):
    model, _, _ = networks(device)
    x, _ = data(device)
    want = model(x)
    with torch.autocast(device, torch.bfloat16), torch.autocast(device, enabled=False):
        assert_bits_equal(model(x), want)


# torch.amp.GradScaler.


def scaled_run(model, loss, device, dtype, batches, init_scale):
    """The scale after each step, and whether the step was taken."""
    make = gdext.optim.SGD if type(model) is gdext.nn.MLP else torch.optim.SGD
    optimizer = make(model.parameters(), **OPTIONS)
    scaler = torch.amp.GradScaler(device, init_scale=init_scale, growth_interval=4)
    scales, taken = [], []
    for x, target in batches:
        before = [p.detach().clone() for p in model.parameters()]
        with torch.autocast(device, dtype):
            cost = FACTOR * loss(reduction="sum")(model(x), target)
        optimizer.zero_grad()
        scaler.scale(cost).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        changed = [not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)]
        assert len(set(changed)) == 1
        taken.append(changed[0])
        if not any(taken):
            assert not optimizer.state
    return scales, taken


@HALVES
def test_grad_scaler_trains_as_torch(device, dtype):
    """Scaled so far that the first gradients overflow: these steps are skipped, the first too."""
    ours, theirs, exact = networks(device)
    start = [p.detach().clone() for p in ours.parameters()]
    batches = [data(device) for _ in range(16)]
    scale = 2.0 ** (16 if dtype == torch.float16 else 127)  # the dtypes end at 2^16 and 2^128
    scales, taken, *want = (
        *scaled_run(ours, gdext.nn.CrossEntropyLoss, device, dtype, batches, scale),
        *scaled_run(theirs, nn.CrossEntropyLoss, device, dtype, batches, scale),
    )
    assert [scales, taken] == want
    assert not taken[0] and sum(taken) > 8 and max(scales[8:]) > min(scales)
    optimizer = torch.optim.SGD(exact.parameters(), **OPTIONS)
    for (x, target), take in zip(batches, taken, strict=True):
        optimizer.zero_grad()
        (FACTOR * nn.CrossEntropyLoss(reduction="sum")(exact(x.double()), target)).backward()
        if take:
            optimizer.step()
    moved = (
        [p.detach() - before for p, before in zip(model.parameters(), start, strict=True)]
        for model in (ours, theirs, exact)
    )
    for i, values in enumerate(zip(*moved, strict=True)):
        assert_as_near(*values, torch.finfo(dtype).eps, f"change of parameter {i}")


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_grad_scaler_with_two_optimizers(device, momentum):
    """Of two optimizers under one scaler only that one skips its step which has an infinity."""
    runs = []
    start = [randn(3, 4, dtype=torch.float32, device=device) for _ in range(2)]
    for make in (gdext.optim.SGD, torch.optim.SGD):
        params = [nn.Parameter(t.clone()) for t in start]
        optimizers = [make([p], 0.5, momentum=momentum) for p in params]
        scaler = torch.amp.GradScaler(device, init_scale=4.0)
        for step in range(3):
            scaler.scale(sum(p.square().sum() for p in params)).backward()
            if step == 0:
                params[1].grad[0, 0] = float("inf")
            for optimizer in optimizers:
                scaler.step(optimizer)
                optimizer.zero_grad()
            scaler.update()
            if step == 0:
                assert_bits_equal(params[1].detach(), start[1])
                assert not torch.equal(params[0], start[0])
        runs.append(params)
    for got, want in zip(*runs, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


# What may lower the precision of PyTorch's own products leaves gdext's as they are.


@pytest.fixture
def restored_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def results(device, dtype):
    torch.manual_seed(7)
    model, _, _ = networks(device, "relu", dtype)
    x, target = data(device, dtype)
    x.requires_grad_()
    loss = gdext.nn.CrossEntropyLoss()(model(x), target)
    tensors = [loss, x.grad, *torch.autograd.grad(loss, [x, *model.parameters()])]
    if device == "cpu":
        optimizer = gdext.optim.SGD(model.parameters(), 0.1)
        trainer = gdext.FusedTrainer(model, optimizer, gdext.nn.CrossEntropyLoss())
        tensors += [trainer.run(x.detach(), target, batch_size=3), *model.parameters()]
    return [t.detach() for t in tensors if t is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_matmul_precision_never_lowers_ours(device, dtype, restored_precision):
    if device != "cpu" and dtype == torch.float32:
        pytest.skip("float32 on CUDA follows it: tests/test_tf32.py")
    torch.set_float32_matmul_precision("highest")
    want = results(device, dtype)
    for precision in ("high", "medium"):
        torch.set_float32_matmul_precision(precision)
        for got, w in zip(results(device, dtype), want, strict=True):
            assert_bits_equal(got, w, precision)


CUDA_SWITCHES = [
    "allow_tf32",
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
    "allow_fp16_accumulation",
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("switch", CUDA_SWITCHES)
def test_cuda_matmul_switches_never_lower_ours(device, switch, dtype):
    if device == "cpu":
        pytest.skip("torch.backends.cuda.matmul says nothing about the CPU")
    if switch == "allow_tf32" and dtype == torch.float32:
        pytest.skip("float32 on CUDA follows it: tests/test_tf32.py")
    before, runs = getattr(torch.backends.cuda.matmul, switch), []
    try:
        for value in (False, True):
            setattr(torch.backends.cuda.matmul, switch, value)
            runs.append(results(device, dtype))
    finally:
        setattr(torch.backends.cuda.matmul, switch, before)
    for got, want in zip(*runs, strict=True):
        assert_bits_equal(got, want, switch)


# torch.set_default_dtype.


@pytest.fixture(params=[torch.float64, torch.bfloat16, torch.float16], ids=str)
def default_dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def test_default_dtype_makes_the_layers(device, default_dtype):
    """Parameters of that dtype with PyTorch's initial numbers, and a training in it."""
    torch.manual_seed(3)
    ours = gdext.nn.MLP([4, 6, 3], "tanh", device=device)
    torch.manual_seed(3)
    theirs = nn.Sequential(
        nn.Linear(4, 6, device=device), nn.Tanh(), nn.Linear(6, 3, device=device)
    )
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert p.dtype == default_dtype
        assert_bits_equal(p.detach(), q.detach())
    batches = [(torch.randn(5, 4, device=device), torch.rand(5, 3, device=device)) for _ in "123"]
    for model, optim, loss_fn in (
        (ours, gdext.optim, gdext.nn.MSELoss()),
        (theirs, torch.optim, nn.MSELoss()),
    ):
        optimizer = optim.SGD(model.parameters(), torch.tensor(0.1, device=device), momentum=0.9)
        for x, target in batches:
            optimizer.zero_grad()
            loss_fn(model(x), target).backward()
            optimizer.step()
    tolerance = 8 * torch.finfo(default_dtype).eps
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


def test_default_dtype_changes_nothing_else(default_dtype):
    """A float32 model on float32 data gives the bits that it gives by default."""
    got = results("cpu", torch.float32)
    torch.set_default_dtype(torch.float32)
    for g, want in zip(got, results("cpu", torch.float32), strict=True):
        assert_bits_equal(g, want)
