"""gdext.FusedTrainer with a process group: two processes take the steps of one, on the batches that
theirs make together."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from fused_runs import data, mlp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

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


def make_shared(rank, unlike=None):
    """A trainer, and what it is for. unlike: in what rank 1 differs."""
    model, optimizer = make({**MOMENTUM, "lr": 0.2} if rank and unlike == "lr" else MOMENTUM)
    if rank and unlike == "parameters":
        with torch.no_grad():
            model[1].bias[2] += 1e-9
    if rank and unlike == "layers":
        model[0].activation = "relu"
    loss = nn.CrossEntropyLoss()
    if rank and unlike == "loss":
        loss.label_smoothing = 0.1
    trainer = gdext.FusedTrainer(model, optimizer, loss, process_group=dist.group.WORLD)
    return trainer, model, optimizer, data(SIZES, SAMPLES, "cross_entropy")


def refused(rank, unlike):
    """Takes a good call, then one that differs in rank 1; nothing may change in that."""
    trainer, model, optimizer, (x, y) = make_shared(rank, unlike)
    trainer.run(x, y, 30)
    generator = torch.Generator().manual_seed(rank)
    given = {"batch_size": 10, "order": generator}
    if unlike == "steps":
        given["batch_size"] += 5 * rank  # 6 and 4 steps
    elif unlike == "more steps than samples":
        given["steps"] = 9
    elif rank and unlike == "class":
        y[7] = 5
    elif rank and unlike == "rates":
        given["lr"] = 0.1 + torch.arange(6) / 10
    elif rank and unlike == "parameters between calls":
        model[0].weight.data[0, 0] += 1
    elif rank and unlike == "momentum between calls":
        optimizer.state[model[0].weight]["momentum_buffer"][0, 0] += 1
    if unlike == "rates" and not rank:
        given["lr"] = 0.1 + torch.arange(6) / 20
    before = copy.deepcopy(result(model, optimizer, generator.get_state()))
    try:
        trainer.run(x, y, **given)
    finally:
        assert_results(result(model, optimizer, generator.get_state()), before, 0)


DIFFERENT = "RuntimeError: process_group: wanted the same {} on every rank, ranks 0 and 1 have "
WHOLE = "options of optimizer and loss"
REFUSALS = {
    "parameters": DIFFERENT.format("parameters and momentum buffers"),
    "layers": DIFFERENT.format("layers"),
    "lr": DIFFERENT.format(WHOLE),
    "loss": DIFFERENT.format(WHOLE),
    "steps": DIFFERENT.format("number of steps") + "different ones (6 and 4)",
    "rates": DIFFERENT.format("learning rates"),
    "parameters between calls": DIFFERENT.format("parameters and momentum buffers"),
    "momentum between calls": DIFFERENT.format("parameters and momentum buffers"),
    "more steps than samples": "ValueError: steps: wanted at most 6, for which a rank has samples",
}


@pytest.mark.parametrize("unlike", REFUSALS)
def test_ranks_that_differ_are_refused_on_each(pair, unlike):
    for error in pair.errors(refused, unlike):
        assert error.startswith(REFUSALS[unlike]), error


def test_an_error_on_one_rank_is_one_on_each(pair):
    first, second = pair.errors(refused, "class")
    assert second.startswith("IndexError: targets: wanted a class from 0 to 4")
    assert first.startswith("RuntimeError: process_group: rank 1 has refused what it was given")


def shared_step(rank, ours):
    """Steps of the trainer, or of DistributedDataParallel with torch's parts, on bytes."""
    u = torch.randint(256, (SAMPLES, 40), dtype=torch.uint8)
    _, y = data(SIZES, SAMPLES, "cross_entropy")
    model, optimizer = make(MOMENTUM)
    losses = []
    if ours:
        trainer = gdext.FusedTrainer(model, optimizer, nn.CrossEntropyLoss(), dist.group.WORLD)
    else:
        model = torch_twin(model)
        optimizer = torch.optim.SGD(model.parameters(), **MOMENTUM)
        parallel = DistributedDataParallel(model)
    for batch in torch.arange(SAMPLES).split(20):
        own = batch[10 * rank : 10 * rank + 10]
        if ours:
            losses.append(trainer.step(u[own], y[own]))
            continue
        loss = nn.functional.cross_entropy(parallel(u[own].double() / 255), y[own])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach() / 2
        dist.all_reduce(mean)
        losses.append(mean)
    return [torch.stack(losses), *(p.detach() for p in model.parameters())]


def torch_twin(model):
    layers = []
    for layer in model:
        twin = nn.Linear(layer.in_features, layer.out_features, dtype=torch.float64)
        twin.load_state_dict(layer.state_dict())
        layers += [twin, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def test_steps_are_those_of_distributed_data_parallel(pair):
    first, second = pair.run(shared_step, True)
    want, _ = pair.run(shared_step, False)
    assert_results(first, second, 0)
    assert_results(first, want, 1e-12)


def test_arguments_of_one_process():
    model, optimizer = make(MOMENTUM)
    with pytest.raises(TypeError, match="process_group: wanted None"):
        gdext.FusedTrainer(model, optimizer, nn.CrossEntropyLoss(), process_group=2)
    trainer = gdext.FusedTrainer(model, optimizer, nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="steps: wanted None without a process_group, got 3"):
        trainer.run(*data(SIZES, 6, "cross_entropy"), 2, steps=3)


def wrapped(rank):
    model, optimizer = make(MOMENTUM)
    gdext.FusedTrainer(DistributedDataParallel(model), optimizer, nn.CrossEntropyLoss())


def test_a_wrapped_model_is_refused(pair):
    for error in pair.errors(wrapped):
        assert error.startswith("TypeError: model: wanted a Linear"), error
