"""What of torch.optim and torch.nn.utils stands on gdext's parts: the same training as with
torch's."""

import copy
import inspect
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim import lr_scheduler, swa_utils

import gdext

STEPS = 12


def model(kinds, **options):
    """The same nested network, its Linears of gdext.nn or of torch.nn."""
    torch.manual_seed(3)
    blocks = nn.ModuleList(
        nn.Sequential(kinds.nn.Linear(i, o, dtype=torch.float64, **options), nn.Tanh())
        for i, o in ((6, 9), (9, 7))
    )
    head = kinds.nn.Linear(7, 4, dtype=torch.float64)
    return nn.Sequential(nn.Sequential(*blocks), head)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(10, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(4, (10,), generator=generator)


def train(kinds, net, optimizer, after_backward=None, after_step=None):
    """The losses of STEPS steps."""
    loss_fn, losses = kinds.nn.CrossEntropyLoss(), []
    for step in range(STEPS):
        optimizer.zero_grad()
        x, y = batch(step)
        loss = loss_fn(net(x), y)
        loss.backward()
        if after_backward:
            after_backward(net)
        optimizer.step()
        if after_step:
            after_step(loss.item())
        losses.append(float(loss.detach()))
    return losses


def assert_same(got, want):
    """The same names, and the same numbers up to rounding."""
    got, want = got.state_dict(), want.state_dict()
    assert list(got) == list(want)
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-10, atol=1e-12)


# Every scheduler: those that are not named here fail test_every_scheduler_is_here.
S = lr_scheduler
SCHEDULERS = {
    "LambdaLR": lambda o: S.LambdaLR(o, lambda n: 1 / (1 + n)),
    "MultiplicativeLR": lambda o: S.MultiplicativeLR(o, lambda n: 0.9),
    "StepLR": lambda o: S.StepLR(o, 3),
    "MultiStepLR": lambda o: S.MultiStepLR(o, [2, 7]),
    "ConstantLR": lambda o: S.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: S.LinearLR(o, 0.1, 1.0, 7),
    "ExponentialLR": lambda o: S.ExponentialLR(o, 0.9),
    "SequentialLR": lambda o: S.SequentialLR(
        o, [S.ConstantLR(o, 0.1, 3), S.ExponentialLR(o, 0.9)], [3]
    ),
    "PolynomialLR": lambda o: S.PolynomialLR(o, 9, 2.0),
    "CosineAnnealingLR": lambda o: S.CosineAnnealingLR(o, STEPS),
    "ChainedScheduler": lambda o: S.ChainedScheduler(
        [S.ConstantLR(o, 0.1, 3), S.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "ReduceLROnPlateau": lambda o: S.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: S.CyclicLR(o, 0.01, 0.1, 3),  # momentum too
    "CosineAnnealingWarmRestarts": lambda o: S.CosineAnnealingWarmRestarts(o, 5),
    "OneCycleLR": lambda o: S.OneCycleLR(o, 0.2, STEPS),  # momentum too
}


def test_every_scheduler_is_here():
    kinds = [
        name for name, kind in vars(lr_scheduler).items()
        if inspect.isclass(kind) and issubclass(kind, lr_scheduler.LRScheduler)
        and name not in ("LRScheduler", "_LRScheduler") and not name.startswith("_")
    ]  # fmt: skip
    assert sorted(kinds) == sorted(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name):
    runs = []
    for kinds in (gdext, torch):
        net = model(gdext)
        optimizer = kinds.optim.SGD(net.parameters(), lr=0.1, momentum=0.8)
        scheduler = SCHEDULERS[name](optimizer)
        plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
        rates = []

        def after_step(loss, optimizer=optimizer, scheduler=scheduler, rates=rates, p=plateau):
            scheduler.step(*([loss] if p else []))
            rates.append([optimizer.param_groups[0][key] for key in ("lr", "momentum")])

        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns where it does not see the steps
            warnings.filterwarnings("ignore", message="The epoch parameter")  # SequentialLR's own
            train(gdext, net, optimizer, after_step=after_step)
        runs.append((net, rates))
    (got, got_rates), (want, rates) = runs
    assert got_rates == rates and (name == "ReduceLROnPlateau" or rates[0] != rates[-1])
    assert_same(got, want)


@pytest.mark.parametrize("kind", ["swa", "ema", "ema of all in one call"])
def test_averaged_models(kind):
    runs = []
    for kinds in (gdext, torch):
        net = nn.Sequential(nn.BatchNorm1d(6, dtype=torch.float64), model(kinds))
        options = {
            "swa": {},
            "ema": {"avg_fn": swa_utils.get_ema_avg_fn(0.8)},
            "ema of all in one call": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.8)},
        }[kind]
        averaged = swa_utils.AveragedModel(net, **options)
        optimizer = kinds.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        scheduler = swa_utils.SWALR(optimizer, swa_lr=0.02, anneal_epochs=5)

        def after_step(loss, averaged=averaged, net=net, scheduler=scheduler):
            averaged.update_parameters(net)
            scheduler.step()

        train(kinds, net, optimizer, after_step=after_step)
        swa_utils.update_bn([batch(step) for step in range(3)], averaged)
        runs.append(averaged)
    assert_same(*runs)


CLIP = {
    "norm": lambda net: nn.utils.clip_grad_norm_(net.parameters(), 0.1),
    "value": lambda net: nn.utils.clip_grad_value_(net.parameters(), 0.01),
    "norm, foreach": lambda net: nn.utils.clip_grad_norm_(net.parameters(), 0.1, foreach=True),
}


@pytest.mark.parametrize("clip", CLIP)
def test_clipped_gradients(clip):
    nets = [model(kinds) for kinds in (gdext, torch, torch)]
    for kinds, net, after in zip(
        (gdext, torch, torch), nets, (CLIP[clip],) * 2 + (None,), strict=True
    ):
        train(kinds, net, kinds.optim.SGD(net.parameters(), lr=0.5, momentum=0.9), after)
    assert_same(*nets[:2])
    clipped, free = (net[1].weight for net in nets[1:])
    assert (clipped - free).abs().max() > 1e-3  # the limits are reached


def double(p):
    p.grad.mul_(2)


def test_gradient_hooks():
    """Of tensors, of parameters once their gradient is there, and of modules."""
    runs = []
    for kinds in (gdext, torch):
        net, seen = model(kinds), []
        net[1].weight.register_hook(lambda g: g * 0.5)
        net[1].bias.register_post_accumulate_grad_hook(double)
        net[0][0].register_full_backward_hook(
            lambda module, dx, dy, seen=seen: seen.append(float(dy[0].sum()))
        )
        train(kinds, net, kinds.optim.SGD(net.parameters(), lr=0.1))
        runs.append((net, seen))
    (got, seen), (want, want_seen) = runs
    assert_same(got, want)
    assert len(seen) == STEPS and seen == pytest.approx(want_seen)


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).T


REWRITE = {
    "parametrize": lambda net: parametrize.register_parametrization(net[1], "weight", nn.Tanh()),
    "weight_norm": lambda net: parametrizations.weight_norm(net[1]),
    "spectral_norm": lambda net: parametrizations.spectral_norm(net[1]),
    "orthogonal": lambda net: parametrizations.orthogonal(net[1]),
    "prune": lambda net: prune.l1_unstructured(net[1], "weight", amount=0.4),
    "prune globally": lambda net: prune.global_unstructured(
        [(net[1], "weight"), (net[0][0][0], "weight")], prune.L1Unstructured, amount=0.3
    ),
    "older spectral_norm": lambda net: nn.utils.spectral_norm(net[1]),
}


@pytest.mark.parametrize("name", REWRITE)
def test_rewritten_weights(name):
    nets = []
    for kinds in (gdext, torch):
        net = model(kinds)
        torch.manual_seed(5)
        REWRITE[name](net)
        train(kinds, net, kinds.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
        nets.append(net)
    assert_same(*nets)
    if name == "prune":
        prune.remove(nets[0][1], "weight")
        assert (nets[0][1].weight == 0).sum() == 11  # 0.4 of 28


def test_rewritten_weights_of_an_mlp():
    """MLP's layers joined in one function must not go past a parametrization or a mask."""
    torch.manual_seed(3)
    net = gdext.nn.MLP([6, 6, 4], dtype=torch.float64)
    parametrize.register_parametrization(net[0], "weight", Symmetric())
    prune.random_unstructured(net[1], "weight", amount=0.5)
    x = batch(0)[0]
    want = nn.functional.linear(x, net[0].weight, net[0].bias).relu()
    torch.testing.assert_close(net(x), nn.functional.linear(want, net[1].weight, net[1].bias))


INITS = [
    "uniform_", "normal_", "ones_", "zeros_", "eye_", "xavier_uniform_", "xavier_normal_",
    "kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "orthogonal_",
]  # fmt: skip


@pytest.mark.parametrize("name", INITS)
def test_init(name):
    layers = [kinds.nn.Linear(5, 4) for kinds in (gdext, torch)]
    versions = []
    for layer in layers:
        torch.manual_seed(7)
        before = layer.weight._version
        getattr(nn.init, name)(layer.weight)
        versions.append(layer.weight._version - before)
    assert torch.equal(*(layer.weight for layer in layers))
    assert versions[0] == versions[1]


def test_groups_and_hooks_of_the_optimizer():
    runs = []
    for kinds in (gdext, torch):
        net, seen = model(kinds), []
        optimizer = kinds.optim.SGD(net[0].parameters(), lr=0.1)
        optimizer.register_step_pre_hook(lambda *_, s=seen: s.append("before"))
        optimizer.register_step_post_hook(lambda *_, s=seen: s.append("after"))
        train(kinds, net, optimizer)
        optimizer.add_param_group({"params": net[1].parameters(), "lr": 0.3, "momentum": 0.5})
        train(kinds, net, optimizer)
        assert seen == ["before", "after"] * 2 * STEPS
        runs.append((net, copy.deepcopy(optimizer.state_dict()["param_groups"])))
    assert_same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
