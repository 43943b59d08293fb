"""gdext.FusedTrainer and the ordinary loop taking turns, signals, threads, memory."""

import copy
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

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


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_exception_from_a_signal_handler_leaves_whole_steps(momentum):
    """The first call must keep its momenta too."""
    sizes = [64, 256, 10]
    options = {"lr": 1e-3, "momentum": momentum, "dampening": 0.5 if momentum else 0}
    x, y = data(sizes, 1000, "cross_entropy", torch.float32)
    order = torch.arange(3_000_000) % 1000
    pair = Pair(mlp(*sizes), nn.CrossEntropyLoss(), options, torch.float32)

    def interrupt(number, frame):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.15)
    begin = time.perf_counter()
    try:
        with pytest.raises(Interrupted):
            pair.trainer.run(x, y, 8, order=order)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.perf_counter() - begin < 5
    # That many whole steps from the start give the same bits: search for the number of steps.
    same = Pair(mlp(*sizes), nn.CrossEntropyLoss(), options, torch.float32)
    want = pair.states()[0]
    assert len(want) == (8 if momentum else 4)
    steps, limit = 0, 400_000
    while steps < limit and not all(
        torch.equal(t, want[name]) for name, t in same.states()[0].items()
    ):
        part = order[steps * 8 : (steps + 1) * 8]
        same.trainer.run(x, y, 8, order=part)
        steps += 1
    assert 0 < steps < limit
    assert len(same.states()[0]) == len(want)


def test_no_exception_parts_the_steps_from_their_new_momenta():
    """Signal handlers run where a call of C code returns: one raises at each of those in turn."""
    x, y = data(SIZES, 24, "cross_entropy")

    def run(pair, last):
        """Raises at the return numbered `last`."""
        returns = 0

        def interrupt(frame, event, argument):
            nonlocal returns
            if event == "c_return" and frame.f_code.co_filename == gdext.fused.__file__:
                returns += 1
                if returns > last:
                    raise Interrupted

        sys.setprofile(interrupt)
        try:
            pair.trainer.run(x, y, 8)
        finally:
            sys.setprofile(None)

    moved, last, interrupted = set(), 0, True
    while interrupted:
        pair = Pair(mlp(*SIZES), nn.CrossEntropyLoss(), OPTIONS)
        try:
            run(pair, last)
            interrupted = False
        except Interrupted:
            last += 1
        mine, theirs = pair.states()
        has_moved = not all(torch.equal(mine[name], theirs[name]) for name in theirs)
        assert len(mine) == len(theirs) * (2 if has_moved else 1), last
        moved.add(has_moved)
    assert last > 10 and moved == {False, True}


SCRIPT = """
import sys, torch, gdext
torch.set_num_threads({threads})
model = gdext.nn.MLP([784, 256, 10])
optimizer = gdext.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
trainer = gdext.FusedTrainer(model, optimizer, gdext.nn.CrossEntropyLoss())
x, y, order = torch.randn(64, 784), torch.randint(10, (64,)), torch.arange(8_000_000) % 64
print("running", flush=True)
try:
    trainer.run(x, y, 1, order=order)
except KeyboardInterrupt:
    assert len(optimizer.state) == 4
    assert all(p.isfinite().all() for p in model.parameters())
    trainer.run(x, y, 1)
    print("stopped", flush=True)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c(threads):
    env = {**os.environ, "PYTHONPATH": str(Path(gdext.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(threads=threads)],
        stdout=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "running\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert out == "stopped\n" and process.returncode == 0


PEAK_MEMORY = """
import torch, gdext
torch.set_num_threads(1)

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

model = torch.nn.Sequential(
    torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(),
    torch.nn.Linear(512, 10),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
loss = torch.nn.CrossEntropyLoss()
B = {batch_size}
x, y, order = torch.randn(4 * B, 784), torch.randint(10, (4 * B,)), torch.randperm(4 * B)
before = peak()
{steps}
print(peak() - before)
"""
FUSED_STEPS = "gdext.FusedTrainer(model, optimizer, loss).run(x, y, B, order=order)"
EAGER_STEPS = """
for batch in order.split(B):
    optimizer.zero_grad()
    loss(model(x[batch]), y[batch]).backward()
    optimizer.step()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
@pytest.mark.parametrize("batch_size", [1, 128, 2048])
def test_peak_memory_is_at_most_pytorch_s(batch_size):
    env = {**os.environ, "PYTHONPATH": str(Path(gdext.__file__).parents[1])}
    fused, eager = (
        int(
            subprocess.check_output(
                [sys.executable, "-c", PEAK_MEMORY.format(batch_size=batch_size, steps=steps)],
                env=env,
            )
        )
        for steps in (FUSED_STEPS, EAGER_STEPS)
    )
    assert 0 < fused <= eager, f"{fused} KiB, PyTorch {eager} KiB"
