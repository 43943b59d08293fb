"""SGD under learning-rate schedulers and torch.amp.GradScaler."""

import pytest
import torch
from compare import assert_bits_equal
from sgd import STEPS, buffers, clone_params, make_gradients, make_params, run, set_gradients

import gdext

# Schedules.

SCHEDULES = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5),
    "exponential": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS),
    "warm restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "linear": lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 7),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, STEPS),  # momentum too
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
}


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["lr", "tensor_lr"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.filterwarnings("error")  # torch warns where it does not see the steps
def test_schedulers(device, schedule, tensor_lr):
    trajectories = []
    params = make_params(device, torch.float64)
    gradients = make_gradients(params, STEPS)
    for make in (gdext.optim.SGD, torch.optim.SGD):
        own = clone_params(params)
        lr = torch.tensor(0.1, dtype=torch.float64, device=device) if tensor_lr else 0.1
        optimizer = make(own, lr, momentum=0.9)
        scheduler = SCHEDULES[schedule](optimizer)
        rates = []
        for of_step in gradients:
            run(optimizer, own, [of_step])
            scheduler.step()
            rates.append(float(optimizer.param_groups[0]["lr"]))
        trajectories.append((own, rates))
    (got, got_rates), (want, rates) = trajectories
    assert got_rates == rates
    assert len(set(rates)) > 1
    for p, q in zip(got, want, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)


def test_lr_tensor_may_be_of_any_dtype_and_on_the_cpu(device):
    on_device = [
        torch.tensor([0.25], dtype=dtype, device=device)
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
    ]
    for lr in (torch.tensor(0.25), *on_device):
        params = make_params(device)
        want = [p.detach() - 0.25 for p in params]
        run(gdext.optim.SGD(params, lr), params, [[torch.ones_like(p) for p in params]])
        for p, w in zip(params, want, strict=True):
            assert_bits_equal(p.detach(), w)


# GradScaler.


def scaled_steps(make, params, gradients, device, unscale_first=False, **options):
    """Steps through a GradScaler; a gradient with an infinity makes it skip one."""
    optimizer = make(params, lr=0.1, **options)
    scaler = torch.amp.GradScaler(device, init_scale=256.0, growth_interval=3)
    scales = []
    for of_step in gradients:
        set_gradients(params, [g * scaler.get_scale() for g in of_step])
        scaler.scale(torch.ones((), device=device))  # makes the scaler's tensors
        if unscale_first:  # as a caller does who clips gradients
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return optimizer, scales


SKIPPED = [(0,), (0, 1, 5), (3,), (3, 4, 19), ()]


@pytest.mark.parametrize("skipped", SKIPPED, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ],
    ids=str,
)
@pytest.mark.parametrize("unscale_first", [False, True], ids=["", "unscale_first"])
def test_grad_scaler(device, options, skipped, unscale_first):
    """As torch's unfused SGD, whose step the scaler does not call when it finds an infinity."""
    params = make_params(device)
    gradients = make_gradients(params, STEPS)
    for step in skipped:
        gradients[step][1][2] = float("inf")
    runs = []
    for make in (gdext.optim.SGD, torch.optim.SGD):
        own = clone_params(params)
        optimizer, scales = scaled_steps(make, own, gradients, device, unscale_first, **options)
        runs.append((own, optimizer, scales))
    (got, optimizer, scales), (want, reference, wanted_scales) = runs
    assert scales == wanted_scales
    tensors = list(zip(got, want, strict=True))
    if options:
        tensors += zip(buffers(optimizer, got), buffers(reference, want), strict=True)
    for p, q in tensors:
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


def test_grad_scaler_stores_unscaled_gradients(device):
    params = make_params(device)
    gradients = make_gradients(params, 1)
    scaled_steps(gdext.optim.SGD, params, gradients, device)
    for p, g in zip(params, gradients[0], strict=True):
        assert_bits_equal(p.grad, g)  # the scale is a power of two


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_skipped_first_step_leaves_no_trace(device, momentum):
    params = make_params(device)
    before = clone_params(params)
    gradients = make_gradients(params, 1)
    gradients[0][0][0, 0] = float("nan")
    optimizer, _ = scaled_steps(
        gdext.optim.SGD, params, gradients, device, momentum=momentum, dampening=0.3
    )
    assert not optimizer.state
    for p, b in zip(params, before, strict=True):
        assert_bits_equal(p.detach(), b.detach())
