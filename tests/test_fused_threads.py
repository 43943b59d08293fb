"""gdext.FusedTrainer with several threads, and at the edges of its kernels' blocks: the steps of
the ordinary loop."""

import pytest
import torch
from compare import assert_bits_equal
from fused_runs import LOSSES, Pair, data, mlp
from torch import nn

SIZES = [40, 33, 20, 5]


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2, 4])
def long_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


# Up to 8 samples there is a kernel of its own; above, with three threads and more, each gathers
# a share of the samples for all.
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8, 9, 16, 17, 33, 50, 100])
@pytest.mark.parametrize("loss", LOSSES)
def test_batch_sizes(batch_size, loss, threads):
    pair = Pair(mlp(*SIZES), LOSSES[loss]())
    pair.assert_equal(*pair.run(*data(SIZES, 100, loss), batch_size))


@pytest.mark.parametrize("batch_size", [1, 3, 8, 9, 32, 96])
@pytest.mark.parametrize(
    "options", [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}]
)
def test_sparse_inputs(batch_size, options, threads):
    x, y = data(SIZES, 96, "cross_entropy")
    x[:, ::3] = 0
    x[:48, ::2] = 0
    x[x.abs() < 0.5] = 0
    x[70] = 0
    order = torch.randperm(96).repeat(2)[:150]
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss(), options)
    pair.assert_equal(*pair.run(x, y, batch_size, order=order))


@pytest.mark.parametrize("batch_size", [1, 9, 32])
def test_bytes(batch_size, threads):
    u = torch.randint(256, (60, 40), dtype=torch.uint8)
    u[u < 128] = 0
    _, y = data(SIZES, 60, "cross_entropy")
    pair, same = (Pair(mlp(*SIZES), nn.CrossEntropyLoss()) for _ in "12")
    got = pair.trainer.run(u, y, batch_size)
    _, want = same.run(u.double() / 255, y, batch_size)
    pair.twin, pair.twin_optimizer = same.twin, same.twin_optimizer
    pair.assert_equal(got, want)


# Blocks are of 256 inputs or units, and of 128 samples or 16 tiles, 192 where a tile has 12; the
# last batch has another size.
@pytest.mark.parametrize(
    ("sizes", "batch_size"),
    [
        ([255, 256, 257, 5], 127),
        ([256, 257, 255, 3], 128),
        ([257, 513, 10], 129),
        ([513, 255, 256], 191),
        ([256, 256, 513], 193),
        ([255, 257, 1], 257),
        ([513, 17, 257, 10], 257),
        ([257, 5, 255, 5], 9),
        ([513, 257, 10], 1),
    ],
    ids=str,
)
def test_edges_of_blocks(sizes, batch_size, threads):
    pair = Pair(mlp(*sizes, activation="tanh"), nn.MSELoss())
    samples = 2 * batch_size + batch_size // 2 + 1
    pair.assert_equal(*pair.run(*data(sizes, samples, "mse"), batch_size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch_size", [1, 9, 64])
def test_same_bits_again(batch_size, dtype, threads):
    x, y = data(SIZES, 100, "cross_entropy", dtype)
    runs = []
    for _ in "12":
        pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss(), dtype=dtype)
        runs.append((pair.trainer.run(x, y, batch_size), pair.states()[0]))
    (losses, states), (again, states_again) = runs
    assert_bits_equal(losses, again)
    for name, t in states.items():
        assert_bits_equal(t, states_again[name])


# Several panels of dz meet a panel of inputs together; beyond 512 samples the sums of a block of
# samples are kept for the next. With four threads the last network has, where a panel has
# 16 units, layers of one and two panels, which are fewer than the threads, below one of four.
@pytest.mark.parametrize("sizes", [SIZES, [8, 16, 20, 49]])
@pytest.mark.parametrize("batch_size", [300, 600, 1100])
def test_long_batches(sizes, batch_size, long_threads):
    pair = Pair(mlp(*sizes), nn.CrossEntropyLoss())
    pair.assert_equal(*pair.run(*data(sizes, 1300, "cross_entropy"), batch_size))
