"""gdext's layers, losses and SGD under torch.distributed's tools, in two processes: the same on
each, and the same as torch's parts give."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from conftest import cuda_missing
from process_pair import SIZE
from torch import nn
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import gdext

OPTIONS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
FEW_GPUS = cuda_missing() or (torch.cuda.device_count() < SIZE and "fewer than two CUDA devices")
each_device = pytest.mark.parametrize(
    "kind",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(bool(FEW_GPUS), reason=str(FEW_GPUS)))],
)


def device_of(rank, kind):
    if kind == "cuda":
        torch.cuda.set_device(rank)
        return torch.device("cuda", rank)
    return torch.device("cpu")


def parts(ours, device, dtype=torch.float64):
    """A model, a loss and SGD: gdext's, or torch's from the same parameters."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    if ours:
        return (
            gdext.nn.convert(model).to(device, dtype),
            gdext.nn.CrossEntropyLoss(),
            gdext.optim.SGD,
        )
    return model.to(device, dtype), nn.CrossEntropyLoss(), torch.optim.SGD


def batches(rank, count, device, dtype=torch.float64):
    generator = torch.Generator().manual_seed(100 + rank)
    for _ in range(count):
        x = torch.randn(4, 6, generator=generator, dtype=torch.float64).to(device, dtype)
        yield x, torch.randint(3, (4,), generator=generator).to(device)


def weights(model):
    full = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    return [p.detach().cpu() for p in full]


def step(forward, loss, optimizer, x, y):
    optimizer.zero_grad()
    loss(forward(x), y).backward()
    optimizer.step()


def assert_same(pair, function, *args, tolerance=1e-12):
    """function(rank, ours, *args) gives the same bits on each rank, and what torch's parts give."""
    first, second = pair.run(function, True, *args)
    want, _ = pair.run(function, False, *args)
    assert len(first) == len(want) > 0
    for mine, other, theirs in zip(first, second, want, strict=True):
        assert torch.equal(mine, other)
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


def ddp(rank, ours, kind):
    device = device_of(rank, kind)
    model, loss, sgd = parts(ours, device)
    parallel = DistributedDataParallel(model)
    optimizer = sgd(model.parameters(), **OPTIONS)
    for x, y in batches(rank, 4, device):
        step(parallel, loss, optimizer, x, y)
    return weights(model)


def ddp_accumulating(rank, ours, kind):
    """Two batches to a step, the first of each pair without a reduction."""
    device = device_of(rank, kind)
    model, loss, sgd = parts(ours, device)
    parallel = DistributedDataParallel(model)
    optimizer = sgd(model.parameters(), **OPTIONS)
    for i, (x, y) in enumerate(batches(rank, 6, device)):
        if i % 2 == 0:
            optimizer.zero_grad()
            with parallel.no_sync():
                loss(parallel(x), y).backward()
        else:
            loss(parallel(x), y).backward()
            optimizer.step()
    return weights(model)


def ddp_uneven(rank, ours, kind):
    """Rank 1 has two batches more, the last of them shorter."""
    device = device_of(rank, kind)
    model, loss, sgd = parts(ours, device)
    parallel = DistributedDataParallel(model)
    optimizer = sgd(model.parameters(), **OPTIONS)
    count = 3 + 2 * rank
    with Join([parallel]):
        for i, (x, y) in enumerate(batches(rank, count, device)):
            size = 1 if i == 4 else 4
            step(parallel, loss, optimizer, x[:size], y[:size])
    return weights(model)


def zero(rank, ours, kind):
    device = device_of(rank, kind)
    model, loss, sgd = parts(ours, device)
    parallel = DistributedDataParallel(model)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), sgd, **OPTIONS)
    for x, y in batches(rank, 4, device):
        step(parallel, loss, optimizer, x, y)
    optimizer.consolidate_state_dict(to=0)
    state = optimizer.state_dict()["state"] if rank == 0 else {}
    buffers = [state[i]["momentum_buffer"].cpu() for i in sorted(state)]
    box = [buffers]
    dist.broadcast_object_list(box, src=0)
    assert len(box[0]) == len(list(model.parameters()))
    return [*weights(model), *box[0]]


def zero_uneven(rank, ours, kind):
    device = device_of(rank, kind)
    model, loss, sgd = parts(ours, device)
    parallel = DistributedDataParallel(model)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), sgd, **OPTIONS)
    with Join([parallel, optimizer]):
        for x, y in batches(rank, 2 + 2 * rank, device):
            step(parallel, loss, optimizer, x, y)
    return weights(model)


@each_device
@pytest.mark.parametrize("function", [ddp, ddp_accumulating, ddp_uneven, zero, zero_uneven])
def test_data_parallel(pair, function, kind):
    assert_same(pair, function, kind)


def sharded(rank, ours, kind, low):
    """FSDP2, every layer by itself, with clipped gradients and two param groups."""
    device = device_of(rank, kind)
    model, loss, sgd = parts(ours, device, torch.float32 if low else torch.float64)
    mesh = init_device_mesh(kind, (SIZE,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16) if low else MixedPrecisionPolicy()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    params = list(model.parameters())
    assert all(isinstance(p, DTensor) for p in params)
    groups = [{"params": params[::2]}, {"params": params[1::2], "momentum": 0, "lr": 0.05}]
    optimizer = sgd(groups, **{**OPTIONS, "momentum": 0.9})
    for x, y in batches(rank, 4, device, torch.float32 if low else torch.float64):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    buffers = [optimizer.state[p]["momentum_buffer"] for p in params[::2]]
    assert all(b.placements == p.placements for b, p in zip(buffers, params[::2], strict=True))
    return [*weights(model), *(b.full_tensor().cpu() for b in buffers)]


@each_device
@pytest.mark.parametrize(
    ("low", "tolerance"), [(False, 1e-12), (True, 1e-2)], ids=["float64", "bfloat16"]
)
def test_fully_shard(pair, kind, low, tolerance):
    assert_same(pair, sharded, kind, low, tolerance=tolerance)


def dtensors(rank, ours):
    """Parameters sharded in one dimension or another or not at all, with gradients in any form."""
    mesh = init_device_mesh("cpu", (SIZE,))
    sgd = gdext.optim.SGD if ours else torch.optim.SGD
    torch.manual_seed(2)
    params, gradients = [], []
    for placement in (Shard(0), Shard(1), Replicate()):
        for of_gradient in (placement, Replicate(), Shard(0)):
            p = distribute_tensor(torch.randn(5, 4, dtype=torch.float64), mesh, [placement])
            params.append(nn.Parameter(p))
            gradient = torch.randn(5, 4, dtype=torch.float64)
            gradients.append(distribute_tensor(gradient, mesh, [of_gradient]))
    local = torch.randn(5, 4, dtype=torch.float64)  # of which the gradient is the sum over ranks
    params.append(nn.Parameter(distribute_tensor(torch.ones(5, 4).double(), mesh, [Shard(0)])))
    gradients.append(DTensor.from_local(local, mesh, [Partial()]))
    optimizer = sgd(params, **OPTIONS)
    for _ in range(3):
        for p, g in zip(params, gradients, strict=True):
            p.grad = g.redistribute(mesh, p.placements) if not ours else g.clone()
        optimizer.step()
    return [p.detach().full_tensor() for p in params]


def test_sgd_updates_shards(pair):
    assert_same(pair, dtensors)


def layer_of_dtensors(rank, which):
    mesh = init_device_mesh("cpu", (SIZE,))
    x, w = (distribute_tensor(torch.randn(4, 4), mesh, [Replicate()]) for _ in "12")
    if which == "linear":
        gdext.functional.linear(x, w)
    elif which == "mse_loss":
        gdext.functional.mse_loss(x, w)
    else:
        gdext.functional.cross_entropy(x, w)


@pytest.mark.parametrize("which", ["linear", "mse_loss", "cross_entropy"])
def test_layers_and_losses_refuse_dtensors(pair, which):
    """fully_shard gives them plain tensors; tensor parallelism would not."""
    op = which.removesuffix("_loss")
    for error in pair.errors(layer_of_dtensors, which):
        assert error.startswith("NotImplementedError"), error
        assert f"gdext.{op}.default does not have a sharding strategy registered" in error
