"""The MNIST trainer: checkpoints, signals, and resuming to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mnist_runs import (
    TEST,
    each_engine,
    made_up,
    one_line,
    prepare,
    rows,
    run,
    same,
    state,
    tree,
    untimed,
)

from gdext import data
from gdext.training import engine, output

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "train_mnist.py"


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


def send_at_call(monkeypatch, number: int, call: int) -> None:
    """Sends this process a real signal in the engine's call-th training call."""
    train, calls = engine.Engine.train, iter(range(1, 10**6))

    def with_signal(self, *arguments):
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return train(self, *arguments)

    monkeypatch.setattr(engine.Engine, "train", with_signal)


@each_engine
@pytest.mark.parametrize(
    ("call", "schedule", "number"),  # an epoch is four calls of three steps
    [
        (1, "constant", signal.SIGINT),
        (4, "cosine", signal.SIGINT),
        (7, "exponential", signal.SIGTERM),
        (8, "step", signal.SIGINT),
        (6, "triangle", signal.SIGINT),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bits(name, number, schedule, call, monkeypatch, capsys):
    options = ("--engine", name, "--batch-size", 28, "--schedule", schedule, "--epochs", 4)
    run(*options, "--out", "whole")
    monkeypatch.setattr(engine, "CHUNKS", dict.fromkeys(engine.ENGINES, (256, 3 * 28)))
    run(*options, "--out", "chunked")
    assert same(state("whole"), state("chunked"))
    with monkeypatch.context() as patch:
        send_at_call(patch, number, call)
        run(*options, "--out", "broken", code=128 + number)
    position = state("broken")["position"]
    assert (position["epoch"], position["step"]) == (call // 4, 3 * (call % 4))
    assert f"stopped by {number.name}" in capsys.readouterr().out
    run("--resume", "--out", "broken")
    assert same(state("whole"), state("broken"))
    assert list(map(untimed, rows("whole"))) == list(map(untimed, rows("broken")))


def test_a_second_ctrl_c_does_not_wait(monkeypatch, capsys):
    def twice(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal did not interrupt")

    monkeypatch.setattr(engine.Engine, "train", twice)
    run("--engine", "torch", "--out", "o", code=130)
    assert "nothing more was saved" in one_line(capsys)
    assert not (Path("o") / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("first", "second"), [("torch", "layers"), ("layers", "fused"), ("fused", "torch")]
)
def test_resume_takes_another_engine(first, second, monkeypatch):
    options = ("--dtype", "float64", "--epochs", 3)
    run("--engine", first, *options, "--out", "whole")
    with monkeypatch.context() as patch:
        send_at_call(patch, signal.SIGINT, 2)
        run("--engine", first, *options, "--out", "broken", code=130)
    run("--resume", "broken", "--engine", second)
    for key, wanted in state("whole")["model"].items():
        torch.testing.assert_close(state("broken")["model"][key], wanted, rtol=1e-9, atol=1e-11)


def test_resume_into_another_folder_leaves_the_first_alone():
    run("--engine", "torch", "--schedule", "constant", "--epochs", 1, "--out", "a")
    before = tree(Path("a"))
    run("--resume", "a/checkpoint.pt", "--epochs", 2, "--out", "b")
    assert tree(Path("a")) == before
    run("--engine", "torch", "--schedule", "constant", "--epochs", 2, "--out", "whole")
    assert same(state("b"), state("whole"))
    assert list(map(untimed, rows("b"))) == list(map(untimed, rows("whole")))


def test_resume_of_a_finished_run_into_another_folder_takes_the_checkpoint_along():
    run("--engine", "torch", "--epochs", 1, "--out", "a")
    run("--resume", "a", "--out", "b")
    assert same(state("a"), state("b"))


def test_default_folders_are_numbered_and_the_newest_is_resumed(capsys):
    for folder in ("runs/mnist", "runs/mnist-2", "runs/mnist-3"):
        run("--engine", "torch", "--schedule", "constant", "--epochs", 1)
        assert len(rows(folder)) == 1
    run("--resume", "--epochs", 2)
    assert [len(rows(f)) for f in ("runs/mnist", "runs/mnist-2", "runs/mnist-3")] == [1, 1, 2]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--hidden", "17"), ("--activation", "tanh"), ("--loss", "mse"), ("--batch-size", "31"),
        ("--epochs", "3"), ("--lr", "0.01"), ("--momentum", "0.5"), ("--weight-decay", "0.1"),
        ("--nesterov", None), ("--schedule", "constant"), ("--dtype", "float64"), ("--seed", "1"),
        ("--limit", "100"),
    ],
)  # fmt: skip
def test_a_resumed_run_cannot_change_its_numbers(option, value, capsys):
    run("--engine", "torch", "--epochs", 2, "--out", "o")
    before = tree(Path("o"))
    capsys.readouterr()
    run("--resume", "o", option, *([value] if value else []), code=2)
    assert f"{option} {value or True} contradicts the checkpoint" in one_line(capsys)
    assert tree(Path("o")) == before


def test_a_resumed_run_needs_the_same_data(monkeypatch, capsys):
    run("--engine", "torch", "--epochs", 2, "--out", "o")
    capsys.readouterr()
    less = made_up(300, 1)
    monkeypatch.setattr(data, "mnist", lambda root=None, train=True: less if train else TEST)
    run("--resume", "o", code=2)
    assert "was trained on 330 samples, the data here has 300" in one_line(capsys)


@pytest.mark.parametrize("fault", ["truncated", "one byte", "empty", "text", "other content"])
def test_a_corrupt_checkpoint_is_refused(fault, capsys):
    run("--engine", "torch", "--epochs", 1, "--out", "o")
    path = Path("o/checkpoint.pt")
    content = bytearray(path.read_bytes())
    if fault == "other content":
        torch.save({"model": {}}, path)
    else:
        content[len(content) // 2] ^= 255
        faults = {"truncated": content[:-100], "one byte": content, "empty": b"", "text": b"hello"}
        path.write_bytes(faults[fault])
    before = tree(Path("o"))
    capsys.readouterr()
    run("--resume", "o", code=2)
    assert "checkpoint.pt is " in one_line(capsys)
    assert tree(Path("o")) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": None}, "does not fit its own options"),
        ({"position": {"era": 1}}, "does not fit its own options"),
        ({"model": {}}, "does not fit its own options"),
        ({"optimizer": {}}, "does not fit its own options"),
        ({"samples": torch.nn.Linear(1, 1)}, "holds more than tensors and plain values"),
        ("model", "has no model"),
    ],
)
def test_a_checkpoint_of_wrong_parts_is_refused(change, message, capsys):
    run("--engine", "torch", "--epochs", 1, "--out", "o")
    path = Path("o/checkpoint.pt")
    content = torch.load(path, weights_only=True)
    if isinstance(change, str):
        del content[change]
    else:
        content.update(change)
    torch.save(content, path)
    before = tree(Path("o"))
    capsys.readouterr()
    run("--resume", "o", code=2)
    assert message in one_line(capsys)
    assert tree(Path("o")) == before


def test_a_failed_save_leaves_the_old_checkpoint(monkeypatch, capsys):
    run("--engine", "torch", "--schedule", "constant", "--epochs", 1, "--out", "o")
    before = Path("o/checkpoint.pt").read_bytes()
    capsys.readouterr()

    def fail(content, file):
        file.write(b"half a checkp")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    run("--resume", "o", "--epochs", 2, code=2)
    assert "No space left on device" in one_line(capsys)
    assert Path("o/checkpoint.pt").read_bytes() == before
    assert not [p for p in Path("o").iterdir() if p.name.startswith(".")]


def test_write_atomically_leaves_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    output.write_atomically(tmp_path / "file", lambda file: file.write(b"content"))
    assert (tmp_path / "file").read_bytes() == b"content"
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_the_script_trains_on_mnist_stops_at_ctrl_c_and_resumes():
    root = Path(os.environ.get("GDEXT_DATA", SCRIPT.parents[1] / "data")).resolve()
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"no MNIST files in {root}; GDEXT_DATA names another folder")
    pytest.importorskip("torchvision", reason="torchvision does not import here")
    command = [sys.executable, str(SCRIPT), "--device", "cpu"]
    options = ["--limit", "4000", "--batch-size", "2", "--lr", "0.002", "--hidden", "32",
               "--epochs", "3", "--data-dir", str(root)]  # fmt: skip
    subprocess.run([*command, *options, "--out", "whole"], check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, *options, "--out", "broken"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("epoch 1/3"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate()
    assert process.returncode == 130
    assert "stopped by SIGINT in epoch 2" in rest
    resume = ["--resume", "broken", "--data-dir", str(root)]
    subprocess.run([*command, *resume], check=True, capture_output=True)
    assert same(state("whole"), state("broken"))
    assert rows("whole")[-1]["test_accuracy"] > 0.85
