"""gdext::mlp_ called directly: what would otherwise reach beyond a tensor's memory is refused."""

import pytest
import torch
from torch.library import opcheck

MLP = torch.ops.gdext.mlp_.default


def arguments(**given):
    """A step of a 3-4-2 network at B = 2 on 4 samples; mse."""
    w1, b1, w2 = torch.randn(4, 3), torch.randn(4), torch.randn(2, 4)
    values = {
        "params": [w1, b1, w2],
        "momentum_buffers": [torch.randn(4, 3), torch.randn(4)],
        "first": [True, False],
        "biases": [True, False],
        "activations": [1, 0],
        "groups": [0, 0, 1],
        "options": [0.9, 0, 0, 0, 0, 0.1, 0, 0, 0, 0, 0, 0.1],
        "inputs": torch.randn(4, 3),
        "targets": torch.randn(4, 2),
        "order": torch.tensor([3, 1, 0]),
        "batch_size": 2,
        "lr": None,
        "input_scale": 1.0,
        "input_shift": 0.0,
        "loss": 1,
        "reduction": 1,
        "class_weight": None,
        "ignore_index": -100,
        "label_smoothing": 0.0,
        "workspace": torch.empty(1 << 20, dtype=torch.uint8),
        "losses": torch.empty(2, dtype=torch.float64),
        "done": torch.zeros((), dtype=torch.int64),
        "seconds": 1.0,
    }
    return {**values, **given}


def test_it_runs():
    given = arguments()
    before = given["params"][2].clone()
    wanted = MLP(**given)
    assert 0 < wanted <= 1 << 20
    assert given["done"].item() == 2
    assert not torch.equal(given["params"][2], before)


def test_gradients_in_place_of_an_update():
    """Each call takes a step, and divides by its norm."""
    given = arguments(gradient=torch.full((24,), 7.0), norms=torch.tensor([8.0, 3.0]).double())
    w1, b1, w2 = given["params"]
    before = [t.clone() for t in given["params"] + given["momentum_buffers"]]
    for step, batch in enumerate(given["order"].split(2)):
        MLP(**given)
        assert given["done"].item() == step + 1
        params = [t.detach().clone().requires_grad_() for t in (w1, b1, w2)]
        y = torch.relu(given["inputs"][batch] @ params[0].t() + params[1]) @ params[2].t()
        loss = (y - given["targets"][batch]).square().sum() / given["norms"][step]
        wanted = torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)])
        torch.testing.assert_close(given["gradient"], wanted.float())
        assert given["losses"][step].item() == pytest.approx(loss.item())
    after = given["params"] + given["momentum_buffers"]
    assert all(torch.equal(t, u) for t, u in zip(after, before, strict=True))


def test_norms_with_an_update_need_no_more_workspace_than_was_asked_for(device):
    given = {
        name: [t.to(device) for t in value]
        if isinstance(value, list) and isinstance(value[0], torch.Tensor)
        else value.to(device)
        if isinstance(value, torch.Tensor) and name != "done"
        else value
        for name, value in arguments(norms=torch.tensor([8.0, 3.0]).double()).items()
    }
    given["workspace"] = torch.empty(0, dtype=torch.uint8, device=device)
    wanted = MLP(**given)
    room = torch.full((wanted + (1 << 16),), 0x55, dtype=torch.uint8, device=device)
    given["workspace"] = room[:wanted]
    w1, b1, w2 = given["params"]
    x, t = given["inputs"][given["order"][:2]], given["targets"][given["order"][:2]]
    loss = (
        torch.nn.functional.mse_loss(torch.relu(x @ w1.t() + b1) @ w2.t(), t, reduction="sum") / 8
    )
    assert MLP(**given) == wanted
    assert given["losses"][0].item() == pytest.approx(loss.item(), rel=1e-4)
    assert given["done"].item() == 2
    assert (room[wanted:] == 0x55).all()


def test_too_little_workspace_does_nothing():
    given = arguments(workspace=torch.empty(64, dtype=torch.uint8))
    before = [p.clone() for p in given["params"]]
    assert MLP(**given) > 64
    assert given["done"].item() == 0
    assert all(torch.equal(p, q) for p, q in zip(given["params"], before, strict=True))


def test_it_continues_from_done():
    whole, parts = arguments(order=None), arguments(order=None)
    for name in ("params", "momentum_buffers"):
        parts[name] = [t.clone() for t in whole[name]]
    parts.update(inputs=whole["inputs"], targets=whole["targets"], seconds=0.0)
    MLP(**whole)
    calls = 0
    while parts["done"].item() < 2:
        MLP(**parts)
        calls += 1
    assert 1 <= calls <= 2
    assert torch.equal(whole["losses"], parts["losses"])
    for name in ("params", "momentum_buffers"):
        assert all(torch.equal(p, q) for p, q in zip(whole[name], parts[name], strict=True))


def test_a_call_gives_back_control_in_time():
    """Each of them later than its first step: a run is many calls, with signals seen in between."""
    count = 200_000
    given = arguments(
        order=torch.arange(count) % 4, losses=torch.empty(count // 2, dtype=torch.float64)
    )
    given["seconds"] = 1e-4
    progress = []
    while given["done"].item() < count // 2:
        MLP(**given)
        progress.append(given["done"].item())
    assert len(progress) > 3
    assert progress == sorted(set(progress))
    assert given["losses"].isfinite().all()


WRONG = {
    "params": [torch.randn(4, 3), torch.randn(3), torch.randn(2, 4)],
    "momentum_buffers": [torch.randn(4, 3)],
    "first": [True],
    "biases": [True, True],
    "activations": [1, 11],
    "groups": [0, 0, 2],
    "options": [0.9, 0, 0, 0, 0],
    "inputs": torch.randn(4, 2),
    "targets": torch.randn(4, 3),
    "order": torch.tensor([3, 1, 4]),
    "batch_size": 5,
    "lr": torch.ones(1, 2, dtype=torch.float64),
    "loss": 2,
    "reduction": 0,
    "class_weight": torch.ones(3),
    "label_smoothing": 2.0,
    "workspace": torch.empty(1 << 20, dtype=torch.uint8)[1:],
    "losses": torch.empty(1, dtype=torch.float64),
    "done": torch.tensor(2),
    "gradient": torch.empty(23),
    "norms": torch.ones(3, dtype=torch.float64),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused(name):
    given = arguments(**{name: WRONG[name]})
    before = [p.clone() for p in given["params"]]
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        MLP(**given)
    assert all(torch.equal(p, q) for p, q in zip(given["params"], before, strict=True))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("params", [torch.randn(4, 3), torch.randn(4).double(), torch.randn(2, 4)]),
        ("params", [torch.randn(4, 3), torch.randn(4), torch.randn(2, 5)]),
        ("params", [torch.randn(4, 3), torch.randn(4), torch.randn(0, 4)]),
        ("momentum_buffers", [torch.randn(3, 4), torch.randn(4)]),
        ("momentum_buffers", [torch.randn(4, 3), torch.randn(4).to_sparse()]),
        ("inputs", torch.randn(4, 3).double()),
        ("targets", torch.zeros(4, dtype=torch.int64)),
        ("order", torch.tensor([], dtype=torch.int64)),
        ("order", torch.arange(6)[::2]),
        ("losses", torch.empty(2)),
        ("workspace", torch.empty(1 << 20)),
        ("gradient", torch.empty(24, dtype=torch.float64)),
        ("gradient", torch.empty(48)[::2]),
        ("norms", torch.ones(2)),
    ],
)
def test_wrong_tensors_are_refused(name, wrong):
    with pytest.raises((RuntimeError, ValueError)):
        MLP(**arguments(**{name: wrong}))


def test_opcheck():
    opcheck(MLP, (), arguments(), test_utils=("test_schema", "test_autograd_registration"))
