"""The MNIST trainer in two processes: the steps of one, and a run that loses one of them."""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from mnist_runs import each_engine, prepare, rows, run, same, state, untimed

from gdext.training import cli, engine

ROOT = Path(__file__).resolve().parents[1]
# 330 samples in batches of 47: unlike shares, and a last batch of one sample.
OPTIONS = ("--hidden", "16", "--batch-size", "47", "--epochs", "3", "--device", "cpu")


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


def train(rank, folder, *arguments, fault=None):
    """The trainer's exit code, standard output and standard error."""
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        prepare(folder, patch)
        if fault:
            fault(rank, patch)
        return cli.main([str(a) for a in arguments]), out.getvalue(), err.getvalue()


def in_call(call, act):
    """A fault: ``act(engine)`` in rank 1's call-th training call."""

    def fault(rank, patch):
        original, calls = engine.Engine.train, iter(range(1, 10**6))

        def with_act(self, *arguments):
            if rank == 1 and next(calls) == call:
                act(self)
            return original(self, *arguments)

        patch.setattr(engine.Engine, "train", with_act)
        patch.setattr(engine, "CHUNKS", dict.fromkeys(engine.ENGINES, (3, 10**6)))

    return fault


def terminate(_):
    os.kill(os.getpid(), signal.SIGTERM)


def spoil(trained):
    with torch.no_grad():
        next(trained.model.parameters())[0, 0] += 1


def train_and_stop(rank, folder, *arguments):
    return train(rank, folder, *arguments, fault=in_call(4, terminate))


def train_and_spoil(rank, folder, *arguments):
    return train(rank, folder, *arguments, fault=in_call(2, spoil))


def train_unlike(rank, folder, *arguments):
    return train(rank, folder, "--seed", rank, *arguments)


def assert_same_run(got, want, tolerance):
    got, want = state(got), state(want)
    assert got["options"] == want["options"]
    for key, tensor in want["model"].items():
        torch.testing.assert_close(got["model"][key], tensor, rtol=tolerance, atol=tolerance)
    for mine, theirs in zip(got["position"]["history"], want["position"]["history"], strict=True):
        assert untimed(mine) == pytest.approx(untimed(theirs), rel=1e-6)


@each_engine
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_two_processes_take_the_steps_of_one(pair, name, loss):
    options = (*OPTIONS, "--engine", name, "--loss", loss, "--schedule", "triangle",
               "--dtype", "float64", "--nesterov", "--weight-decay", 0.01)  # fmt: skip
    first, second = pair.run(train, Path.cwd(), *options, "--out", "two")
    assert (first[0], second) == (0, (0, "", ""))
    assert first[2] == ""
    assert "with 1 threads in each of 2 processes; seed 0; into two" in first[1]
    run(*options, "--out", "one")
    assert_same_run("two", "one", 1e-9)
    assert list(map(untimed, rows("two"))) == state("two")["position"]["history"]


def test_gradient_descent_in_float16(pair):
    """Where the sum of all losses would be infinite."""
    options = (*OPTIONS, "--engine", "layers", "--dtype", "float16", "--batch-size", "full")
    assert [answer[0] for answer in pair.run(train, Path.cwd(), *options, "--out", "o")] == [0, 0]
    losses = [row["train_loss"] for row in rows("o")]
    assert all(map(math.isfinite, losses))
    assert losses == sorted(losses, reverse=True)


@each_engine
def test_a_signal_to_one_stops_both_and_resumes_to_the_same_bits(pair, name):
    options = (*OPTIONS, "--engine", name)
    pair.run(train, Path.cwd(), *options, "--out", "whole")
    answers = pair.run(train_and_stop, Path.cwd(), *options, "--out", "broken")
    assert [code for code, _, _ in answers] == [143, 143]
    assert "stopped by SIGTERM in epoch 2 after 3 of its steps" in answers[0][1]
    answers = pair.run(train, Path.cwd(), "--resume", "broken")
    assert "resuming after epoch 1, step 3" in answers[0][1]
    assert same(state("whole"), state("broken"))


def test_one_process_resumes_the_run_of_two(pair):
    options = (*OPTIONS, "--dtype", "float64")
    pair.run(train_and_stop, Path.cwd(), *options, "--out", "broken")
    run("--resume", "broken")
    run(*options, "--out", "one")
    assert_same_run("broken", "one", 1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "1"], "--batch-size 1: wanted a sample for each of the 2 processes"),
        (["--resume", "nowhere.pt"], "there is no checkpoint nowhere.pt"),
        (["--limit", "331"], "--limit 331: the training set has 330 samples"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--out", "file/o"], "--out file/o cannot be written to"),
    ],
)
def test_an_error_is_one_line_of_the_first_process(pair, arguments, message):
    Path("file").write_text("")
    out = [] if "--out" in arguments else ["--out", "o"]
    (code, _, error), second = pair.run(train, Path.cwd(), *out, *arguments)
    assert (code, second) == (2, (2, "", ""))
    assert error.count("\n") == 1 and message in error


def test_unlike_options_are_refused(pair):
    answers = pair.run(train_unlike, Path.cwd(), *OPTIONS, "--out", "o")
    assert [code for code, _, _ in answers] == [2, 2]
    assert "the options of processes 0 and 1 differ" in answers[0][2]
    assert not (Path("o") / "checkpoint.pt").exists()


@pytest.mark.parametrize("name", ["layers", "torch"])
def test_weights_that_differ_end_the_run(pair, name):
    answers = pair.run(train_and_spoil, Path.cwd(), *OPTIONS, "--engine", name, "--out", "o")
    assert [code for code, _, _ in answers] == [3, 3]
    assert "the processes hold different weights" in answers[0][2]
    assert state("o")["position"]["epoch"] == 0


def test_fused_steps_refuse_weights_that_differ(pair):
    command = (*OPTIONS, "--engine", "fused", "--out", "o")
    errors = pair.errors(train_and_spoil, Path.cwd(), *command)
    assert all("wanted the same parameters and momentum buffers" in error for error in errors)


SCRIPT = """
import atexit, os, runpy, sys, time
from pathlib import Path
import pytest
from mnist_runs import prepare
from gdext.training import engine

prepare(Path.cwd(), pytest.MonkeyPatch())
rank = os.environ["RANK"]
Path("pid" + rank).write_text(str(os.getpid()))
names = lambda: [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
atexit.register(lambda: Path("threads" + rank).write_text("".join(names())))
train, pause = engine.Engine.train, float(os.environ["PAUSE"])
def slowly(self, *arguments):
    time.sleep(pause)
    return train(self, *arguments)
engine.Engine.train = slowly
sys.argv[0] = {script!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def torchrun(*arguments, pause):
    Path("slow.py").write_text(SCRIPT.format(script=str(ROOT / "scripts" / "train_mnist.py")))
    folders = [str(ROOT / "tests"), *sys.path]
    environment = {"PYTHONPATH": os.pathsep.join(folders), "PAUSE": str(pause)}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "slow.py", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def output_from_first_epoch_on(process, act):
    """Calls ``act`` when the first epoch is over. The rest of the output, and the exit code."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch "):
            break
    else:
        raise AssertionError("no epoch was trained")
    act()
    guard = threading.Timer(100, process.kill)
    guard.start()
    # Not communicate(timeout=...), which would miss what the loop has read ahead.
    rest = process.stdout.read()
    code = process.wait()
    guard.cancel()
    return rest, code


def test_torchrun_stops_loses_a_process_and_resumes(pair):
    """scripts/train_mnist.py: a SIGTERM to torchrun, then a process killed, and at last the bits of
    a run that nothing happened to."""
    options = (*OPTIONS, "--epochs", 8, "--engine", "fused")
    process = torchrun(*options, "--out", "broken", pause=0.4)
    rest, code = output_from_first_epoch_on(process, process.terminate)
    assert code != 0
    assert "stopped by SIGTERM in epoch" in rest
    stopped = state("broken")["position"]["epoch"]
    assert 1 <= stopped < 7

    process = torchrun("--resume", "broken", pause=0.4)
    kill = lambda: os.kill(int(Path("pid1").read_text()), signal.SIGKILL)  # noqa: E731
    rest, code = output_from_first_epoch_on(process, kill)
    assert code != 0
    assert "process 0: another process of this run has ended or cannot be reached" in rest
    assert stopped < state("broken")["position"]["epoch"] < 8

    process = torchrun("--resume", "broken", pause=0)
    rest, code = output_from_first_epoch_on(process, lambda: None)
    assert code == 0 and "test accuracy" in rest, rest
    # The group's threads have ended: one that frees a tensor while Python shuts down would abort.
    assert all("gloo" not in Path(f"threads{rank}").read_text() for rank in range(2))
    pair.run(train, Path.cwd(), *options, "--out", "whole")
    assert same(state("whole"), state("broken"))
