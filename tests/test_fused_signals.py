"""gdext.FusedTrainer and signals: whole steps, with their momenta."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fused_runs import Pair, data, mlp
from torch import nn

import gdext

SIZES = [7, 19, 12, 5]
OPTIONS = {"lr": 0.05, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}


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
