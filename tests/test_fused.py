"""gdext.FusedTrainer takes the steps of the ordinary loop: in float64, to rounding."""

import copy
import itertools

import pytest
import torch
from fused_runs import ACTIVATIONS, LOSSES, Pair, data, mlp, torch_mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from sgd import VALID
from torch import nn

import gdext

SIZES = [7, 19, 12, 5]
EDGES = [1, 2, 3, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 100]


def test_activations_are_gdext_s():
    assert set(ACTIVATIONS) == set(gdext.functional.ACTIVATIONS)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, loss):
    pair = Pair(mlp(*SIZES, activation=activation, output_activation=activation), LOSSES[loss]())
    pair.assert_equal(*pair.run(*data(SIZES, 40, loss), 8))


@pytest.mark.parametrize(
    "batch_size", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 99, 100]
)
@pytest.mark.parametrize("loss", LOSSES)
def test_batch_sizes_with_a_short_last_batch(batch_size, loss):
    pair = Pair(mlp(*SIZES), LOSSES[loss]())
    pair.assert_equal(*pair.run(*data(SIZES, 100, loss), batch_size))


@settings(max_examples=60)
@given(
    sizes=st.lists(st.sampled_from(EDGES), min_size=2, max_size=6),
    batch_size=st.sampled_from(EDGES),
    activation=st.sampled_from(["relu", "tanh", "silu"]),
    bias=st.booleans(),
    loss=st.sampled_from(list(LOSSES)),
    nesterov=st.booleans(),
)
def test_shapes(sizes, batch_size, activation, bias, loss, nesterov):
    pair = Pair(
        mlp(*sizes, activation=activation, bias=bias),
        LOSSES[loss](),
        {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.01, "nesterov": nesterov},
    )
    samples = 2 * batch_size + (batch_size + 1) // 2
    pair.assert_equal(*pair.run(*data(sizes, samples, loss), batch_size), tolerance=1e-9)


@pytest.mark.parametrize("options", VALID)
def test_options(options):
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss(), {"lr": 0.05, **options})
    x, y = data(SIZES, 40, "cross_entropy")
    for batch_size in (1, 8):
        pair.assert_equal(*pair.run(x, y, batch_size))


def test_groups_and_learning_rates_per_step():
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss())
    pair.split_groups(
        {"momentum": 0.9, "lr": 0.03},
        {"lr": 0.2, "weight_decay": 0.1},
        {"momentum": 0.5, "dampening": 0.5, "maximize": True, "lr": 0.01},
        {"momentum": 0.7, "nesterov": True},
    )
    x, y = data(SIZES, 40, "cross_entropy")
    pair.assert_equal(*pair.run(x, y, 8))
    rates = torch.rand(5, 4, dtype=torch.float64) / 10
    pair.assert_equal(*pair.run(x, y, 8, lr=rates))


@pytest.mark.parametrize("form", ["number", "list", "tensor"])
def test_forms_of_lr(form):
    rates = [0.1, 0.05, 0.2] if form != "number" else [0.05] * 3
    given_lr = {"number": 0.05, "list": rates, "tensor": torch.tensor(rates)}[form]
    x, y = data(SIZES, 24, "mse")
    pair = Pair(mlp(*SIZES), nn.MSELoss(), {"lr": 7.0, "momentum": 0.9})
    got = pair.trainer.run(x, y, 8, lr=given_lr)
    assert pair.optimizer.param_groups[0]["lr"] == 7.0
    same = Pair(mlp(*SIZES), nn.MSELoss(), {"lr": 7.0, "momentum": 0.9})
    wanted = torch.as_tensor(given_lr, dtype=torch.float64).expand(3)[:, None]
    assert torch.equal(got, same.run(x, y, 8, lr=wanted)[0])
    same.assert_equal(got, got)


def test_tensor_lr():
    pair = Pair(mlp(*SIZES), nn.MSELoss(), {"lr": torch.tensor(0.1), "momentum": 0.9})
    x, y = data(SIZES, 24, "mse")
    pair.assert_equal(*pair.run(x, y, 8), tolerance=1e-7)
    pair.optimizer.param_groups[0]["lr"].fill_(0.25)
    pair.twin_optimizer.param_groups[0]["lr"].fill_(0.25)
    pair.assert_equal(*pair.run(x, y, 8), tolerance=1e-7)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_mse_reductions(reduction, batch_size):
    pair = Pair(mlp(*SIZES), nn.MSELoss(reduction=reduction), {"lr": 0.001})
    pair.assert_equal(*pair.run(*data(SIZES, 40, "mse"), batch_size))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("reduction", "label_smoothing", "ignore_index"),
    list(itertools.product(["mean", "sum"], [0.0, 0.1, 1.0], [-100, 2])),
)
def test_cross_entropy_options(reduction, label_smoothing, ignore_index, weighted):
    weight = torch.tensor([0.5, 2, 1, 0, 3], dtype=torch.float64) if weighted else None
    loss = nn.CrossEntropyLoss(
        weight, reduction=reduction, label_smoothing=label_smoothing, ignore_index=ignore_index
    )
    pair = Pair(mlp(*SIZES), loss, {"lr": 0.01, "momentum": 0.9})
    x, y = data(SIZES, 48, "cross_entropy")
    y[::7] = ignore_index
    y[(y == 3) & (torch.arange(48) < 24)] = 4  # so that no batch has a weight of 0 alone
    pair.assert_equal(*pair.run(x, y, 24))


def test_an_infinite_weight_of_a_class_that_does_not_occur():
    weight = torch.tensor([0.5, 2, 1, torch.inf, torch.nan], dtype=torch.float64)
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss(weight))
    x, y = data(SIZES, 48, "cross_entropy")
    pair.assert_equal(*pair.run(x, y % 3, 24))
    assert all(p.isfinite().all() for p in pair.model.parameters())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_of_ignored_samples(reduction):
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss(reduction=reduction))
    x, y = data(SIZES, 8, "cross_entropy")
    got, want = pair.run(x, torch.full_like(y, -100), 4)
    mine, theirs = pair.states()
    assert torch.equal(got.isnan(), want.isnan())
    for name, tensor in mine.items():
        assert torch.equal(tensor.isnan(), theirs[name].isnan())
    if reduction == "sum":
        pair.assert_equal(got, want)


def test_order():
    x, y = data(SIZES, 30, "cross_entropy")
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss())
    pair.assert_equal(*pair.run(x, y, 8, order=torch.tensor([3, 3, 29, 0, 7, 3, 1, 2, 11, 5, 6])))
    pair.assert_equal(*pair.run(x, y, 30, order=torch.arange(100) % 30))
    got = pair.trainer.run(x, y, 8, order=torch.Generator().manual_seed(5))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    want = pair.run(x, y, 8, order=order)[1]  # the trainer has taken the steps of one run more
    assert got[0] == pytest.approx(want[0].item(), rel=1e-11)


def test_a_generator_s_order_is_randperm_s():
    x, y = data(SIZES, 30, "cross_entropy")
    a, b = (Pair(mlp(*SIZES), nn.CrossEntropyLoss()).trainer for _ in range(2))
    generator = torch.Generator().manual_seed(5)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    assert torch.equal(a.run(x, y, 8, order=generator), b.run(x, y, 8, order=order))
    assert not torch.equal(torch.randperm(30, generator=generator), order), (
        "the generator has not moved on"
    )


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("scale", [None, (1 / 255 / 0.3081, -0.1307 / 0.3081)])
@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4)])
def test_bytes(shape, scale, batch_size):
    sizes = [24, 11, 5]
    u = torch.randint(256, (40, *shape[:-2], *shape[-2:]), dtype=torch.uint8)
    _, y = data(sizes, 40, "cross_entropy")
    pair = Pair(mlp(*sizes), nn.CrossEntropyLoss())
    named = {} if scale is None else {"input_scale": scale[0], "input_shift": scale[1]}
    factor, shift = scale or (1 / 255, 0.0)
    got = pair.trainer.run(u, y, batch_size, **named)
    same = Pair(mlp(*sizes), nn.CrossEntropyLoss())
    _, want = same.run(u.double().flatten(1) * factor + shift, y, batch_size)
    pair.twin, pair.twin_optimizer = same.twin, same.twin_optimizer
    pair.assert_equal(got, want)


def test_step():
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss())
    x, y = data(SIZES, 40, "cross_entropy")
    same = Pair(mlp(*SIZES), nn.CrossEntropyLoss())
    want = same.run(x, y, 8)[1]
    for batch, target, wanted in zip(x.split(8), y.split(8), want, strict=True):
        got = pair.trainer.step(batch, target)
        assert got.dtype == torch.float64 and got.shape == ()
        assert got.item() == pytest.approx(wanted.item(), rel=1e-11)
    pair.twin, pair.twin_optimizer = same.twin, same.twin_optimizer
    pair.assert_equal(want, want)


@pytest.mark.parametrize(
    "build",
    [
        lambda: torch_mlp(*SIZES, activation=nn.Tanh),
        lambda: nn.Sequential(nn.Flatten(), nn.Sequential(torch_mlp(*SIZES)), nn.Identity()),
        lambda: gdext.nn.convert(torch_mlp(*SIZES, activation=nn.SiLU)),
        lambda: nn.Sequential(gdext.nn.MLP(SIZES[:3]), nn.GELU("tanh"), gdext.nn.MLP(SIZES[2:])),
        lambda: nn.Linear(7, 5),
        lambda: gdext.nn.Linear(7, 5, activation="elu"),
    ],
    ids=["torch.nn", "nested", "converted", "mixed", "one Linear", "one gdext.nn.Linear"],
)
@pytest.mark.parametrize("kind", [torch.optim.SGD, gdext.optim.SGD])
@pytest.mark.parametrize("module", [nn, gdext.nn])
def test_models(build, kind, module):
    model = build().double()
    twin = copy.deepcopy(model)
    x, y = data(SIZES, 40, "cross_entropy")
    losses = gdext.FusedTrainer(
        model, kind(model.parameters(), lr=0.1), module.CrossEntropyLoss()
    ).run(x, y, 8)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for i, (batch, target) in enumerate(zip(x.split(8), y.split(8), strict=True)):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(twin(batch), target)
        loss.backward()
        optimizer.step()
        assert losses[i].item() == pytest.approx(loss.item(), rel=1e-11)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-11)


def test_strided_parameters_buffers_inputs_and_targets():
    pair = Pair(mlp(*SIZES), nn.MSELoss())
    gaps = []
    for p in pair.model.parameters():
        room = torch.full([2 * n for n in p.shape], 17.0, dtype=p.dtype)
        view = room.t()[::2, 1::2].t() if p.dim() == 2 else room[::2]
        view.copy_(p.data)
        p.data = view
        gaps.append(room)
    x, y = data(SIZES, 20, "mse")
    columns = x.t().contiguous().t()
    wide = torch.stack([y, y], 2)[:, :, 0]
    got, want = pair.run(columns, wide, 6)
    pair.assert_equal(got, want)
    for room, p in zip(gaps, pair.model.parameters(), strict=True):
        assert (room == 17).sum() == room.numel() - p.numel(), "memory between the elements"
        pair.optimizer.state[p]["momentum_buffer"] = (
            pair.optimizer.state[p]["momentum_buffer"].t().contiguous().t()
        )
    pair.assert_equal(*pair.run(columns, wide, 6))


def test_zero_columns_and_dead_units():
    """What the kernel skips: the result must be that of taking everything."""
    sizes = [40, 33, 20, 5]
    x, y = data(sizes, 96, "cross_entropy")
    x[:, ::3] = 0
    x[:48, ::2] = 0
    x[x.abs() < 0.5] = 0
    for batch_size in (1, 2, 8, 32, 96):
        for options in ({"lr": 0.1}, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}):
            model = mlp(*sizes)
            with torch.no_grad():
                model[0].bias[::2] = -100
                model[1].bias[::3] = -100
            pair = Pair(model, nn.CrossEntropyLoss(), options)
            pair.assert_equal(*pair.run(x, y, batch_size))


def test_an_input_of_zeros_alone():
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss(), {"lr": 0.1, "weight_decay": 0.1})
    x, y = data(SIZES, 12, "cross_entropy")
    pair.assert_equal(*pair.run(torch.zeros_like(x), y, 4))
