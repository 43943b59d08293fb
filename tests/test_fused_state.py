"""gdext.FusedTrainer and the ordinary loop taking turns, and threads."""

import copy
import io
import pickle
import threading
import time

import pytest
import torch
from compare import assert_bits_equal
from fused_runs import Pair, data, loop, mlp
from sgd import VALID
from torch import nn

import gdext

SIZES = [7, 19, 12, 5]
OPTIONS = {"lr": 0.05, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}


def ordinary(pair, x, y, batch_size):
    return loop(pair.model, pair.optimizer, pair.loss, x, y, batch_size)


@pytest.mark.parametrize("options", VALID)
@pytest.mark.parametrize("first", ["fused", "ordinary"])
def test_taking_turns(first, options):
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss(), {"lr": 0.05, **options})
    x, y = data(SIZES, 24, "cross_entropy")
    for turn in range(4):
        if (turn % 2 == 0) == (first == "fused"):
            pair.assert_equal(*pair.run(x, y, 8))
        else:
            want = loop(pair.twin, pair.twin_optimizer, pair.twin_loss, x, y, 8)
            pair.assert_equal(ordinary(pair, x, y, 8), want)


def test_state_dict_goes_both_ways():
    x, y = data(SIZES, 24, "cross_entropy")
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss(), OPTIONS)
    pair.run(x, y, 8)
    saved = copy.deepcopy((pair.model.state_dict(), pair.optimizer.state_dict()))
    want = pair.run(x, y, 8)[0]
    pair.model.load_state_dict(saved[0])
    pair.optimizer.load_state_dict(copy.deepcopy(saved[1]))  # loading alone would share it
    assert_bits_equal(pair.trainer.run(x, y, 8), want)

    model = mlp(*SIZES)
    model.load_state_dict(saved[0])
    other = torch.optim.SGD(model.parameters(), lr=1.0)
    other.load_state_dict(saved[1])
    assert_bits_equal(gdext.FusedTrainer(model, other, nn.CrossEntropyLoss()).run(x, y, 8), want)


def test_no_state_without_momentum():
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss(), {"lr": 0.1})
    pair.run(*data(SIZES, 24, "cross_entropy"), 8)
    assert not pair.optimizer.state


def halve(pair):
    for p in pair.model.parameters():
        p.data = p.data / 2
    for p in pair.twin.parameters():
        p.data /= 2


def clamp(pair):
    for p in [*pair.model.parameters(), *pair.twin.parameters()]:
        p.data.clamp_(-0.1, 0.1)


def write_numpy(pair):
    for p in [*pair.model.parameters(), *pair.twin.parameters()]:
        p.detach().numpy()[:] *= 0.5


def change_momentum(pair):
    for optimizer in (pair.optimizer, pair.twin_optimizer):
        for state in optimizer.state.values():
            state["momentum_buffer"] = state["momentum_buffer"] * 2


def change_options(pair):
    for optimizer in (pair.optimizer, pair.twin_optimizer):
        optimizer.param_groups[0].update(lr=0.2, momentum=0.5, weight_decay=0.1, dampening=0)


def change_parameters(pair):
    for i, layer in enumerate(pair.model):
        layer.weight = nn.Parameter(layer.weight.detach() / 3)
        pair.twin.weights[i].data /= 3
    pair.optimizer = gdext.optim.SGD(pair.model.parameters(), **OPTIONS)
    pair.twin_optimizer = torch.optim.SGD(pair.twin.in_order(), **OPTIONS)
    pair.trainer.optimizer = pair.optimizer


def change_activation(pair):
    pair.model[0].activation = pair.twin.activations[0] = "tanh"


def change_loss(pair):
    pair.loss.label_smoothing = pair.twin_loss.label_smoothing = 0.1


@pytest.mark.parametrize(
    "change",
    [
        halve, clamp, write_numpy, change_momentum, change_options, change_parameters,
        change_activation, change_loss,
    ],
)  # fmt: skip
def test_changes_between_calls_are_seen(change):
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss(), OPTIONS)
    x, y = data(SIZES, 24, "cross_entropy")
    for _ in range(3):
        pair.assert_equal(*pair.run(x, y, 8))
        change(pair)
    pair.assert_equal(*pair.run(x, y, 8))


def test_gradients_are_left_alone():
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss())
    x, y = data(SIZES, 24, "cross_entropy")
    pair.trainer.run(x, y, 8)
    assert all(p.grad is None for p in pair.model.parameters())
    pair.loss(pair.model(x), y).backward()
    before = [p.grad.clone() for p in pair.model.parameters()]
    pair.trainer.run(x, y, 8)
    for p, want in zip(pair.model.parameters(), before, strict=True):
        assert_bits_equal(p.grad, want)


def test_autograd_sees_that_parameters_have_changed():
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss())
    x, y = data(SIZES, 24, "cross_entropy")
    graph = pair.loss(pair.model(x.requires_grad_()), y)
    versions = [p._version for p in pair.model.parameters()]
    pair.trainer.step(x.detach(), y)
    assert all(p._version > v for p, v in zip(pair.model.parameters(), versions, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        graph.backward()


@pytest.mark.parametrize("grad", [True, False])
def test_grad_mode_is_neither_needed_nor_changed(grad):
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss())
    x, y = data(SIZES, 24, "cross_entropy")
    with torch.set_grad_enabled(grad):
        losses = pair.trainer.run(x, y, 8)
        assert torch.is_grad_enabled() == grad
    assert not losses.requires_grad
    assert all(p.is_leaf and p.grad_fn is None for p in pair.model.parameters())
    pair.assert_equal(losses, loop(pair.twin, pair.twin_optimizer, pair.twin_loss, x, y, 8))


def test_lr_schedulers_take_a_call_for_a_step(recwarn):
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss())
    x, y = data(SIZES, 24, "cross_entropy")
    for optimizer in (pair.optimizer, pair.twin_optimizer):
        optimizer.scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        pair.assert_equal(*pair.run(x, y, 8))
        pair.optimizer.scheduler.step()
        pair.twin_optimizer.scheduler.step()
    assert pair.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 8)
    assert not [w for w in recwarn if "lr_scheduler" in str(w.message)]


def test_deepcopy_and_pickle():
    pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss(), OPTIONS)
    x, y = data(SIZES, 24, "cross_entropy")
    pair.trainer.run(x, y, 8)
    copies = [copy.deepcopy(pair.trainer), pickle.loads(pickle.dumps(pair.trainer))]
    file = io.BytesIO()
    torch.save(pair.model.state_dict(), file)
    want = pair.trainer.run(x, y, 8)
    for trainer in copies:
        assert_bits_equal(trainer.run(x, y, 8), want)
        for p, q in zip(trainer.model.parameters(), pair.model.parameters(), strict=True):
            assert_bits_equal(p.detach(), q.detach())


def test_threads_at_the_same_time():
    """Trainers in several threads, and one trainer's GIL given to others while it runs."""
    sizes = [64, 128, 10]
    x, y = data(sizes, 2000, "cross_entropy", torch.float32)

    pairs = [Pair(mlp(*sizes), nn.CrossEntropyLoss(), {"lr": 0.01}, torch.float32) for _ in "123"]
    order = torch.arange(40000) % 2000
    results = [None] * 3

    def train(i):
        losses = pairs[i].trainer.run(x, y, 16, order=order)
        results[i] = losses, pairs[i].model[0].weight.detach()

    train(2)
    workers = [threading.Thread(target=train, args=(i,)) for i in range(2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    for losses, weight in results[:2]:
        assert_bits_equal(losses, results[2][0])
        assert_bits_equal(weight, results[2][1])


def test_one_trainer_in_two_threads_does_not_crash():
    """Its parameters are written by both, as they would be in the ordinary loop: no result."""
    sizes = [64, 128, 10]
    x, y = data(sizes, 500, "cross_entropy", torch.float32)
    x[:, ::2] = 0
    pair = Pair(mlp(*sizes), nn.CrossEntropyLoss(), {"lr": 1e-4}, torch.float32)
    workers = [
        threading.Thread(
            target=lambda: [pair.trainer.run(x, y, b) for b in (1, 64, 3, 200) for _ in range(5)]
        )
        for _ in range(2)
    ]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert all(p.isfinite().all() for p in pair.model.parameters())


def test_the_gil_is_released():
    sizes = [256, 512, 10]
    x, y = data(sizes, 2048, "cross_entropy", torch.float32)
    pair = Pair(mlp(*sizes), nn.CrossEntropyLoss(), {"lr": 1e-4}, torch.float32)
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    worker = threading.Thread(target=tick)
    worker.start()
    try:
        begin = time.perf_counter()
        pair.trainer.step(x, y)  # a single native call
        end = time.perf_counter()
    finally:
        stop.set()
        worker.join()
    inside = sum(begin < t < end for t in ticks)
    assert inside >= 2 or end - begin < 0.02, f"{inside} ticks in {end - begin:.3f} s"
