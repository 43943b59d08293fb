"""gdext.FusedTrainer in a CUDA graph's capture: what is read at each replay, and what is refused
before anything is launched. Here the CPU says that it is captured; tests/test_fused_devices.py has
the graphs."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from fused_runs import Pair, assert_refused, assert_unchanged, data, loop, mlp, parts

from gdext._fused import data as fused_data
from gdext._fused import optimizer as fused_optimizer
from gdext.nn import CrossEntropyLoss

SIZES = [7, 12, 5]
X, Y = data(SIZES, 8, "cross_entropy")
RATES = [[0.5], [0.25]]


@pytest.fixture
def captured(monkeypatch):
    for module in (fused_data, fused_optimizer):
        monkeypatch.setattr(module, "is_capturing", lambda device: True)


def pair_of_mlp():
    return Pair(mlp(*SIZES), CrossEntropyLoss())


WANTED = "wanted a number or a tensor on cpu while a CUDA graph is captured (it is read at each "


@pytest.mark.parametrize(
    ("lr", "got"),
    [
        ([0.5, 0.25], "list"),
        (np.array([0.5, 0.25]), "ndarray"),
        (torch.tensor(RATES, device="meta"), "a tensor on meta"),
    ],
    ids=["list", "array", "elsewhere"],
)
def test_learning_rates_elsewhere(captured, lr, got):
    pair = pair_of_mlp()
    before = parts(pair)
    assert_refused(
        lambda: pair.trainer.run(X, Y, 4, lr=lr), RuntimeError, f"lr: {WANTED}replay), got {got}"
    )
    assert_unchanged(pair, before)


@pytest.mark.parametrize("lr", [0.5, 1, torch.tensor(RATES, dtype=torch.float64), None], ids=str)
def test_learning_rates_that_a_graph_can_read(captured, lr):
    pair = pair_of_mlp()
    own = torch.tensor(pair.optimizer.param_groups[0]["lr"], dtype=torch.float64)
    rates = (own if lr is None else torch.as_tensor(lr)).expand(2, 1)
    got = pair.trainer.run(X, Y, 4, lr=lr)
    want = loop(pair.twin, pair.twin_optimizer, pair.twin_loss, X, Y, 4, lr=rates)
    pair.assert_equal(got, want)


def test_a_generator(captured):
    pair = pair_of_mlp()
    before, generator = parts(pair), torch.Generator()
    state = generator.get_state()
    with pytest.raises(RuntimeError, match=re.escape(
        "order: wanted None or a tensor on cpu while a CUDA graph is captured (such as "
        "torch.randperm's there, captured too: then each replay has an order of its own), got a "
        "torch.Generator on cpu"
    )):  # fmt: skip
        pair.trainer.run(X, Y, 4, order=generator)
    assert torch.equal(generator.get_state(), state)
    assert_unchanged(pair, before)


class OnCuda(torch.Tensor):
    """A learning rate that says it is on a GPU, and must not be read."""

    @property
    def device(self):
        return torch.device("cuda:0")

    def __float__(self):
        raise AssertionError("waited for the device")


def test_a_group_s_learning_rate_on_the_device(captured):
    pair = pair_of_mlp()
    lr = torch.tensor(0.1).as_subclass(OnCuda)
    pair.optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(RuntimeError, match=re.escape(
        "optimizer.param_groups[0]['lr']: wanted a number while a CUDA graph is captured, got a "
        "tensor on cuda:0; give it as run's lr"
    )):  # fmt: skip
        pair.trainer.run(X, Y, 4)


def test_outside_of_a_capture_nothing_of_this_is_refused():
    pair = pair_of_mlp()
    pair.trainer.run(X, Y, 4, lr=[0.5, 0.25], order=torch.Generator())
    assert not fused_data.is_capturing(torch.device("cpu"))


def test_a_number_is_checked_in_a_capture_too(captured):
    with pytest.raises(ValueError, match="lr: wanted finite numbers >= 0, got -1"):
        pair_of_mlp().trainer.run(X, Y, 4, lr=-1)


def test_the_samples_are_looked_at_once():
    """The op asks for a workspace before it looks at them, which on CUDA it waits for; but where
    processes share a batch, which check all before any of them has one."""
    pair = pair_of_mlp()
    wrong = Y.clone()
    wrong[5] = 99
    call = pair.trainer._prepare(X, wrong, 4, None, None, 1 / 255, 0.0, None)
    assert call.steps_op(call.memory(0), 1.0)() > 0
    count = sum(p.numel() for p in pair.model.parameters())
    with pytest.raises(IndexError, match="targets: wanted a class from 0 to 4"):
        call.take_gradient(call.memory(0), torch.empty(count, dtype=torch.float64))
    assert call.done.item() == 0
