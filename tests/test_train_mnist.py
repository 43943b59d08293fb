"""scripts/train_mnist.py: most tests call its main() on made-up images, some the script itself."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from gdext import data
from gdext.training import cli, engine, output, plots, report

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "train_mnist.py"
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
TIMES = ("seconds", "samples_per_second")
PICTURES = ("curves.png", "confusion.png", "mistakes.png", "weights.png")
each_engine = pytest.mark.parametrize("name", list(engine.ENGINES))


def made_up(count: int, seed: int) -> data.ImageSet:
    """Ten sparse patterns with a quarter of their dots, which a small network soon tells apart."""
    patterns = torch.rand(10, 28, 28, generator=torch.Generator().manual_seed(7)) < 0.2
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    kept = torch.rand(count, 28, 28, generator=generator) < 0.25
    images = 255 * (patterns[labels] & kept).to(torch.uint8)
    return data.ImageSet(images, labels, tuple("0123456789"), "made-up images")


TRAIN, TEST = made_up(330, 1), made_up(100, 2)


@pytest.fixture(autouse=True)
def workplace(request, tmp_path, monkeypatch):
    """An empty working directory, made-up images in place of MNIST, and, to save seconds per run,
    no TensorBoard events and no plots but where a test takes `everything`."""
    monkeypatch.chdir(tmp_path)
    if "everything" not in request.fixturenames:
        monkeypatch.setattr(report, "find_spec", lambda name: None)
    monkeypatch.setattr(data, "mnist", lambda root=None, train=True: TRAIN if train else TEST)


@pytest.fixture
def everything():
    """See `workplace`."""


def run(*arguments: object, code: int = 0) -> None:
    command = [str(a) for a in arguments]
    for option, default in [("--hidden", ["16"]), ("--batch-size", ["32"]), ("--device", ["cpu"])]:
        if option not in command and "--resume" not in command:
            command += [option, *default]
    assert cli.main(command) == code


def rows(folder: str | Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def untimed(row: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in row.items() if k not in TIMES}


def state(folder: str | Path) -> dict:
    content = torch.load(Path(folder) / "checkpoint.pt", weights_only=True)
    content["position"].pop("seconds")
    content["position"]["history"] = [untimed(r) for r in content["position"]["history"]]
    return content


def same(a: object, b: object) -> bool:
    """Equal to the bit, through dicts, lists and tensors."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def send_at_call(monkeypatch, number: int, call: int) -> None:
    """Sends this process a real signal in the engine's call-th training call."""
    train, calls = engine.Engine.train, iter(range(1, 10**6))

    def with_signal(self, *arguments):
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return train(self, *arguments)

    monkeypatch.setattr(engine.Engine, "train", with_signal)


def one_line(capsys) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@each_engine
@pytest.mark.parametrize("device", DEVICES)
def test_a_run_learns_and_writes_everything(name, device, capsys, everything):
    run("--engine", name, "--device", device, "--epochs", 3, "--lr", 0.1, "--out", "o")
    printed = capsys.readouterr().out
    assert [line.split()[1] for line in printed.splitlines() if line[:6] == "epoch "] == [
        "1/3", "2/3", "3/3",
    ]  # fmt: skip
    got = rows("o")
    assert [r["epoch"] for r in got] == [1, 2, 3]
    assert got[-1]["test_accuracy"] > 0.9
    assert f"{got[-1]['test_accuracy']:.2%}" in printed
    assert got[-1]["train_loss"] < got[0]["train_loss"] / 2
    assert all(r["samples_per_second"] == pytest.approx(330 / r["seconds"]) for r in got)
    for picture in PICTURES:
        pytest.importorskip("matplotlib")
        assert (Path("o") / picture).read_bytes().startswith(b"\x89PNG")
    assert state("o")["position"]["epoch"] == 3
    assert not [p for p in Path("o").iterdir() if p.name.startswith(".")], (
        "a temporary file is left"
    )


def test_tensorboard_events(everything):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run("--engine", "torch", "--epochs", 2, "--out", "o")
    events = EventAccumulator("o/tensorboard")
    events.Reload()
    seen = [(e.step, e.value) for e in events.Scalars("test_accuracy")]
    assert seen == [(r["epoch"], pytest.approx(r["test_accuracy"])) for r in rows("o")]


def oracle(batch_size: int, epochs: int, loss: nn.Module, targets: torch.Tensor) -> nn.Module:
    """The run that the options describe, written plainly."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(784, 16), nn.Tanh(), nn.Linear(16, 10)).double()
    sgd = torch.optim.SGD(
        model.parameters(), lr=0.03, momentum=0.8, weight_decay=0.01, nesterov=True
    )
    x = ((TRAIN.images.double() / 255 - 0.1307) / 0.3081).flatten(1)
    generator = torch.Generator().manual_seed(3)
    for epoch in range(epochs):
        sgd.param_groups[0]["lr"] = 0.03 * (1 + math.cos(math.pi * epoch / epochs)) / 2
        order = torch.randperm(330, generator=generator)
        for start in range(0, 330, batch_size):
            batch = order[start : start + batch_size]
            sgd.zero_grad()
            loss(model(x[batch]), targets[batch]).backward()
            sgd.step()
    return model


@each_engine
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("batch_size", ["1", "100", "full"])
def test_the_steps_are_those_of_a_plain_loop(name, loss, batch_size):
    run("--engine", name, "--loss", loss, "--batch-size", batch_size, "--dtype", "float64",
        "--activation", "tanh", "--lr", 0.03, "--momentum", 0.8, "--weight-decay", 0.01,
        "--nesterov", "--seed", 3, "--epochs", 2, "--out", "o")  # fmt: skip
    size = 330 if batch_size == "full" else int(batch_size)
    if loss == "mse":
        model = oracle(size, 2, nn.MSELoss(), torch.eye(10).double()[TRAIN.labels])
    else:
        model = oracle(size, 2, nn.CrossEntropyLoss(), TRAIN.labels)
    got = state("o")["model"]
    assert list(got) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    for mine, wanted in zip(got.values(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted.detach(), rtol=1e-9, atol=1e-11)


def test_train_loss_is_the_mean_over_samples():
    # With no step worth the name, the epoch's loss is that of the initial network, short batch
    # included.
    run("--engine", "torch", "--batch-size", 100, "--lr", 1e-30, "--epochs", 1, "--out", "o",
        "--dtype", "float64")  # fmt: skip
    model = nn.Sequential(nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10)).double()
    model.load_state_dict(dict(zip(model.state_dict(), state("o")["model"].values(), strict=True)))
    x = ((TRAIN.images.double() / 255 - 0.1307) / 0.3081).flatten(1)
    wanted = nn.functional.cross_entropy(model(x), TRAIN.labels).item()
    assert rows("o")[0]["train_loss"] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("activation", list(engine.ACTIVATIONS))
def test_engines_agree_on_every_activation(activation):
    for name in engine.ENGINES:
        run("--engine", name, "--activation", activation, "--dtype", "float64", "--epochs", 1,
            "--hidden", 8, 6, "--out", name)  # fmt: skip
    first, *others = (state(name)["model"] for name in engine.ENGINES)
    for other in others:
        for key, wanted in first.items():
            torch.testing.assert_close(other[key], wanted, rtol=1e-9, atol=1e-11)


@each_engine
@pytest.mark.parametrize("dtype", list(engine.DTYPES))
def test_dtypes(name, dtype):
    run("--engine", name, "--dtype", dtype, "--epochs", 3, "--lr", 0.1, "--out", "o")
    assert {p.dtype for p in state("o")["model"].values()} == {getattr(torch, dtype)}
    assert rows("o")[-1]["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", [1, 1, 1, 1, 1, 1]),
        ("step", [1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("exponential", [0.01 ** (e / 6) for e in range(6)]),
        ("cosine", [(1 + math.cos(math.pi * e / 6)) / 2 for e in range(6)]),
    ],
)
def test_schedules(schedule, wanted):
    run("--engine", "torch", "--schedule", schedule, "--epochs", 6, "--lr", 0.02, "--out", "o")
    assert [r["lr"] for r in rows("o")] == pytest.approx([0.02 * w for w in wanted])


@each_engine
@pytest.mark.parametrize(
    ("call", "schedule", "number"),  # an epoch is four calls of three steps
    [
        (1, "constant", signal.SIGINT),
        (4, "cosine", signal.SIGINT),
        (7, "exponential", signal.SIGTERM),
        (8, "step", signal.SIGINT),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bits(name, number, schedule, call, monkeypatch, capsys):
    options = ("--engine", name, "--batch-size", 28, "--schedule", schedule, "--epochs", 4)
    run(*options, "--out", "whole")
    monkeypatch.setattr(cli.loop, "CHUNK_SAMPLES", 3 * 28)
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


def test_resume_takes_another_engine(monkeypatch):
    options = ("--dtype", "float64", "--epochs", 3)
    run("--engine", "torch", *options, "--out", "whole")
    with monkeypatch.context() as patch:
        send_at_call(patch, signal.SIGINT, 2)
        run("--engine", "torch", *options, "--out", "broken", code=130)
    run("--resume", "broken", "--engine", "layers")
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


def test_default_folders_are_numbered_and_the_newest_is_resumed(capsys):
    for folder in ("runs/mnist", "runs/mnist-2", "runs/mnist-3"):
        run("--engine", "torch", "--schedule", "constant", "--epochs", 1)
        assert len(rows(folder)) == 1
    run("--resume", "--epochs", 2)
    assert [len(rows(f)) for f in ("runs/mnist", "runs/mnist-2", "runs/mnist-3")] == [1, 1, 2]


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


def test_mixed_sources_are_refused(monkeypatch, capsys):
    other = TEST._replace(source="a subset")
    monkeypatch.setattr(data, "mnist", lambda root=None, train=True: TRAIN if train else other)
    run("--engine", "torch", "--out", "o", code=2)
    assert "training set is made-up images, test set is a subset" in one_line(capsys)


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
        (["--target-accuracy", "nan"], "--target-accuracy: nan: wanted"),
        (["--resume", "nowhere.pt"], "there is no checkpoint nowhere.pt"),
        (["--resume"], "there is no checkpoint o/checkpoint.pt"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--out", "file/o"], "--out file/o cannot be written to"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    Path("file").write_text("")
    out = [] if "--out" in arguments else ["--out", "o"]
    run("--engine", "torch", *out, *arguments, code=2)
    assert message in one_line(capsys)
    assert not [p for p in Path().rglob("*") if p.is_file() and p.name != "file"]


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


@pytest.mark.parametrize(("written", "code"), [("0.3", 0), ("30%", 0), ("1.0", 1)])
def test_target_accuracy(written, code, capsys):
    run("--engine", "torch", "--epochs", 4, "--lr", 0.02, "--target-accuracy", written,
        "--momentum", 0, "--out", "o", code=code)  # fmt: skip
    accuracies = [r["test_accuracy"] for r in rows("o")]
    printed = capsys.readouterr()
    if code:
        assert len(accuracies) == 4
        assert "1 was not reached" in printed.err
    else:
        assert len(accuracies) < 4
        assert "0.3 is reached" in printed.out
        assert accuracies[-1] >= 0.3 > max([0, *accuracies[:-1]])
        run("--resume", "o")
        assert len(rows("o")) == len(accuracies)


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


@pytest.mark.parametrize(
    ("package", "lost"), [("matplotlib", "plots"), ("tensorboard", "TensorBoard events")]
)
def test_without_an_optional_package(package, lost, monkeypatch, capsys, everything):
    pytest.importorskip(package)
    monkeypatch.setattr(
        report, "find_spec", lambda name: None if name == package else find_spec(name)
    )
    run("--engine", "torch", "--epochs", 1, "--out", "o")
    printed = capsys.readouterr().out
    assert printed.count(f"{package} is not installed: no {lost} (pip install {package})\n") == 1
    there = {"matplotlib": Path("o/curves.png"), "tensorboard": Path("o/tensorboard")}
    for name, path in there.items():
        assert path.exists() == (name != package and find_spec(name) is not None)


def test_confusion_and_mistakes_show_the_right_images():
    figure = pytest.importorskip("matplotlib.figure").Figure
    labels = torch.tensor([0, 0, 1, 2, 3])
    outputs = torch.zeros(5, 10)
    outputs[range(5), [0, 7, 1, 5, 6]] = torch.tensor([9.0, 2.0, 9.0, 4.0, 1.0])
    images = torch.zeros(5, 28, 28, dtype=torch.uint8)
    images[:, 0, 0] = torch.arange(5)
    matrix = plots.confusion(figure, outputs.argmax(dim=1), labels)
    cells = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in matrix.axes[0].texts}
    assert {k: v for k, v in cells.items() if v != "·"} == {
        (0, 0): "1", (0, 7): "1", (1, 1): "1", (2, 5): "1", (3, 6): "1",
    }  # fmt: skip
    assert "2 of 5 right (40.00%)" in matrix.axes[0].get_title()
    shown = plots.mistakes(figure, images, outputs, labels, "cross_entropy")
    drawn = [axes for axes in shown.axes if axes.images]
    assert [int(axes.images[0].get_array()[0, 0]) for axes in drawn] == [3, 1, 4]
    share = math.exp(4) / (math.exp(4) + 9)
    assert drawn[0].get_title() == f"predicted 5: {share:.0%}\ntrue 2: {(1 - share) / 9:.0%}"


def test_weights_shows_the_largest_norms_on_one_scale():
    figure = pytest.importorskip("matplotlib.figure").Figure
    first = torch.arange(1.0, 101.0)[:, None].expand(100, 784) / 100
    drawn = [axes for axes in plots.weights(figure, first).axes if axes.images]
    assert [axes.get_title() for axes in drawn] == [
        f"{28 * n / 100:.2f}" for n in range(100, 36, -1)
    ]
    assert {axes.images[0].get_clim() for axes in drawn} == {(-1.0, 1.0)}


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
