"""The MNIST trainer: what it refuses in one line, and training that diverges."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from mnist_runs import (
    TEST,
    TRAIN,
    each_engine,
    one_line,
    prepare,
    rows,
    run,
    state,
    tree,
)

from gdext import data
from gdext.training import engine, output, report


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "nothing"], "--engine: invalid choice"),
        (["--hidden", "0"], "--hidden: 0: wanted an integer from 1"),
        (["--activation", "abs"], "--activation: invalid choice"),
        (["--loss", "l1"], "--loss: invalid choice"),
        (["--batch-size", "0"], "--batch-size: 0: wanted an integer of at least 1, or full"),
        (["--batch-size", "x"], "--batch-size: x: wanted"),
        (["--batch-size", "331"], "--batch-size 331 is more than the 330 training samples"),
        (["--limit", "331"], "--limit 331: the training set has 330 samples"),
        (["--limit", "10", "--batch-size", "11"], "more than the 10 training samples"),
        (["--epochs", "0"], "--epochs: 0: wanted"),
        (["--epochs", "1.5"], "--epochs: invalid integer value"),
        (["--lr", "0"], "--lr: 0: wanted a finite number above 0"),
        (["--lr", "nan"], "--lr: nan: wanted"),
        (["--lr", "inf"], "--lr: inf: wanted"),
        (["--momentum", "-0.1"], "--momentum: -0.1: wanted a finite number of at least 0"),
        (["--weight-decay", "-1"], "--weight-decay: -1: wanted"),
        (["--nesterov", "--momentum", "0"], "--nesterov needs --momentum above 0"),
        (["--schedule", "linear"], "--schedule: invalid choice"),
        (["--dtype", "int8"], "--dtype: invalid choice"),
        (["--seed", "-1"], "--seed: -1: wanted"),
        (["--seed", "99999999999999999999"], "--seed: 99999999999999999999: wanted"),
        (["--target-accuracy", "98"], "--target-accuracy: 98: wanted a share in (0, 1]"),
        (["--target-accuracy", "98%%"], "--target-accuracy: invalid share value"),
        (["--target-accuracy", "nan"], "--target-accuracy: nan: wanted"),
        (["--resume", "nowhere.pt"], "there is no checkpoint nowhere.pt"),
        (["--resume"], "there is no checkpoint o/checkpoint.pt"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--out", ""], "--out: wanted the name of a folder, got nothing"),
        (["--out", "file/o"], "--out file/o cannot be written to"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    Path("file").write_text("")
    out = [] if "--out" in arguments else ["--out", "o"]
    run("--engine", "torch", *out, *arguments, code=2)
    assert message in one_line(capsys)
    assert not [p for p in Path().rglob("*") if p.is_file() and p.name != "file"]


def test_a_folder_with_a_run_is_refused(capsys):
    run("--engine", "torch", "--epochs", 1, "--out", "o")
    before = tree(Path("o"))
    capsys.readouterr()
    run("--engine", "torch", "--epochs", 1, "--out", "o", code=2)
    assert "already holds a run" in one_line(capsys)
    run("--engine", "torch", "--epochs", 1, "--out", "p")
    capsys.readouterr()
    run("--resume", "p", "--out", "o", code=2)
    assert "already holds a run" in one_line(capsys)
    assert tree(Path("o")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there(capsys):
    run("--device", "cuda", "--out", "o", code=2)
    assert "--device cuda: torch finds no CUDA device here" in one_line(capsys)
    assert not Path("o").exists()


def test_errors_of_the_data_are_one_line(monkeypatch, capsys):
    def missing(root=None, train=True):
        raise data.DataError("MNIST: no source worked")

    monkeypatch.setattr(data, "mnist", missing)
    run("--engine", "torch", "--out", "o", code=2)
    assert "error: MNIST: no source worked" in one_line(capsys)


def test_mixed_sources_are_refused(monkeypatch, capsys):
    other = TEST._replace(source="a subset")
    monkeypatch.setattr(data, "mnist", lambda root=None, train=True: TRAIN if train else other)
    run("--engine", "torch", "--out", "o", code=2)
    assert "training set is made-up images, test set is a subset" in one_line(capsys)


def test_a_folder_that_another_run_is_writing_into_is_refused(capsys):
    Path("o").mkdir()
    with output.locked(Path("o")):
        run("--engine", "torch", "--out", "o", code=2)
        assert "another run is writing into o" in one_line(capsys)
        assert not list(Path("o").iterdir())
    run("--engine", "torch", "--epochs", 1, "--out", "o")


def test_a_closed_stdout_costs_no_epoch(monkeypatch, capsys):
    def closed(self, row):
        raise BrokenPipeError(32, "Broken pipe")

    with monkeypatch.context() as patch:
        patch.setattr(report.Report, "end_epoch", closed)
        run("--engine", "torch", "--epochs", 2, "--out", "o", code=2)
    assert "Broken pipe" in one_line(capsys)
    assert state("o")["position"]["epoch"] == 1
    run("--resume", "o")
    assert len(rows("o")) == 2


def test_a_closed_stderr_is_no_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    run("--engine", "torch", "--epochs", 1, "--out", "o")


@each_engine
def test_divergence_keeps_the_last_good_checkpoint(name, monkeypatch, capsys):
    options = ("--engine", name, "--epochs", 3, "--batch-size", 100)
    train, calls = engine.Engine.train, iter(range(1, 100))

    def poisoned(self, *arguments):
        if next(calls) == 2:
            with torch.no_grad():
                next(self.model.parameters())[0, 0] = math.nan
        return train(self, *arguments)

    monkeypatch.setattr(engine.Engine, "train", poisoned)
    run(*options, "--out", "o", code=1)
    message = one_line(capsys)
    assert "diverged in epoch 2, step 1: training loss nan" in message
    assert "--lr" in message
    kept = state("o")
    assert kept["position"]["epoch"] == 1
    assert len(rows("o")) == 1
    assert all(p.isfinite().all() for p in kept["model"].values())


def test_divergence_in_the_last_step_of_an_epoch_is_seen(capsys):
    run("--engine", "torch", "--batch-size", "full", "--lr", 1e30, "--dtype", "float32",
        "--epochs", 2, "--out", "o", code=1)  # fmt: skip
    assert "diverged in epoch 1, after its last step: test loss" in one_line(capsys)
    assert not Path("o/checkpoint.pt").exists()
