"""gdext.FusedTrainer with a process group: two processes take the steps of one, on the batches that
theirs make together."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from fused_runs import data, mlp
from torch import nn

import gdext

SIZES = [40, 33, 20, 5]
SAMPLES = 60
MOMENTUM = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def weighted(dtype=torch.float64):
    weight = torch.tensor([0.5, 2, 1, 0, 3], dtype=dtype)
    return nn.CrossEntropyLoss(weight, ignore_index=1, label_smoothing=0.1)


# Loss, options of SGD, samples of a batch on each rank, samples of all batches on each rank.
CASES = {
    "cross entropy": (nn.CrossEntropyLoss(), MOMENTUM, (8, 8), (24, 24)),
    "no momentum": (nn.CrossEntropyLoss(), {"lr": 0.1}, (1, 1), (3, 3)),
    "classes that weigh differently": (weighted(), MOMENTUM, (13, 13), (26, 26)),
    "mse": (nn.MSELoss(), {**MOMENTUM, "nesterov": True}, (14, 14), (28, 28)),
    "sum": (nn.MSELoss(reduction="sum"), {"lr": 0.001, "maximize": True}, (3, 3), (9, 9)),
    "unlike batches": (nn.CrossEntropyLoss(), MOMENTUM, (5, 11), (15, 33)),
    "a short last batch": (weighted(), MOMENTUM, (8, 8), (24, 17)),
    "no samples left on one rank": (nn.CrossEntropyLoss(), MOMENTUM, (8, 8), (8, 24)),
    "none from the start": (nn.MSELoss(), MOMENTUM, (8, 8), (24, 0)),
}


def orders(batches, samples):
    """The samples that each rank takes, and those of the whole batches, batch by batch."""
    generator = torch.Generator().manual_seed(5)
    parts = torch.randperm(SAMPLES, generator=generator)[: sum(samples)].split(samples)
    steps = max(-(-n // b) for n, b in zip(samples, batches, strict=True))
    whole = []
    for step in range(steps):
        of_ranks = zip(parts, batches, strict=True)
        whole.append(torch.cat([order[step * b : (step + 1) * b] for order, b in of_ranks]))
    return parts, whole


def make(options, dtype=torch.float64, groups=False):
    model = mlp(*SIZES, activation="tanh", dtype=dtype)
    params = list(model.parameters())
    if groups:
        params = [{"params": params[::2], "momentum": 0.5}, {"params": params[1::2], "lr": 0.02}]
    return model, gdext.optim.SGD(params, **options)


def result(model, optimizer, losses):
    state = [optimizer.state[p].get("momentum_buffer") for p in model.parameters()]
    return losses, [p.detach() for p in model.parameters()], state


def shared_run(rank, case, dtype, groups, threads):
    loss, options, batches, samples = CASES[case]
    parts, whole = orders(batches, samples)
    torch.set_num_threads(threads)
    model, optimizer = make(options, dtype, groups)
    trainer = gdext.FusedTrainer(model, optimizer, copy.deepcopy(loss).to(dtype), dist.group.WORLD)
    kind = "mse" if isinstance(loss, nn.MSELoss) else "cross_entropy"
    x, y = data(SIZES, SAMPLES, kind, dtype)
    losses = trainer.run(x, y, batches[rank], order=parts[rank], steps=len(whole))
    torch.set_num_threads(1)
    return result(model, optimizer, losses)


def one_run(case, dtype, groups):
    """The same by one process, a call for each batch."""
    loss, options, batches, samples = CASES[case]
    _, whole = orders(batches, samples)
    model, optimizer = make(options, dtype, groups)
    trainer = gdext.FusedTrainer(model, optimizer, copy.deepcopy(loss).to(dtype))
    kind = "mse" if isinstance(loss, nn.MSELoss) else "cross_entropy"
    x, y = data(SIZES, SAMPLES, kind, dtype)
    losses = torch.cat([trainer.run(x, y, len(batch), order=batch) for batch in whole])
    return result(model, optimizer, losses)


def assert_results(got, want, tolerance):
    for g, w in zip(got, want, strict=True):
        if isinstance(g, list):
            assert_results(g, w, tolerance)
        elif g is None or w is None:
            assert g is w
        else:
            torch.testing.assert_close(g, w, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("dtype", "groups", "threads", "tolerance"),
    [(torch.float64, False, 1, 1e-12), (torch.float32, True, 2, 2e-6)],
    ids=["float64", "float32-groups"],
)
def test_the_steps_are_those_of_one_process(pair, case, dtype, groups, threads, tolerance):
    first, second = pair.run(shared_run, case, dtype, groups, threads)
    assert_results(first, second, 0)
    assert_results(first, one_run(case, dtype, groups), tolerance)
