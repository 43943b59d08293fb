"""The MNIST trainer: its steps, metrics and pictures."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mnist_runs import (
    TRAIN,
    each_engine,
    prepare,
    rows,
    run,
    state,
)
from torch import nn

from gdext.training import engine, plots, report
from gdext.training.options import DEFAULTS, RECIPES, complete

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PICTURES = ("curves.png", "confusion.png", "mistakes.png", "weights.png")


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


@pytest.fixture
def everything(monkeypatch):
    """Plots and TensorBoard events, where their packages are installed."""
    monkeypatch.setattr(report, "find_spec", find_spec)


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


def factor(schedule: str, epoch: int, epochs: int, step: int, steps: int) -> float:
    if schedule == "cosine":
        return (1 + math.cos(math.pi * epoch / epochs)) / 2
    assert schedule == "triangle"
    done = (epoch * steps + step) / (epochs * steps)
    return done / 0.2 if done < 0.2 else (1 - done) / 0.8


def oracle(
    batch_size: int, epochs: int, loss: nn.Module, targets: torch.Tensor, schedule: str, pixels: str
) -> nn.Module:
    """The run that the options describe, written plainly."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(784, 16), nn.Tanh(), nn.Linear(16, 10)).double()
    sgd = torch.optim.SGD(
        model.parameters(), lr=0.03, momentum=0.8, weight_decay=0.01, nesterov=True
    )
    x = TRAIN.images.double().flatten(1) / 255
    x = (x - 0.1307) / 0.3081 if pixels == "standard" else x
    generator = torch.Generator().manual_seed(3)
    for epoch in range(epochs):
        order = torch.randperm(330, generator=generator)
        starts = range(0, 330, batch_size)
        for step, start in enumerate(starts):
            sgd.param_groups[0]["lr"] = 0.03 * factor(schedule, epoch, epochs, step, len(starts))
            batch = order[start : start + batch_size]
            sgd.zero_grad()
            loss(model(x[batch]), targets[batch]).backward()
            sgd.step()
    return model


@each_engine
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("batch_size", ["1", "100", "full"])
@pytest.mark.parametrize(
    ("schedule", "pixels"), [("cosine", "standard"), ("triangle", "standard"), ("cosine", "unit")]
)
def test_the_steps_are_those_of_a_plain_loop(name, loss, batch_size, schedule, pixels):
    run("--engine", name, "--loss", loss, "--batch-size", batch_size, "--dtype", "float64",
        "--activation", "tanh", "--lr", 0.03, "--momentum", 0.8, "--weight-decay", 0.01,
        "--nesterov", "--seed", 3, "--epochs", 2, "--schedule", schedule,
        "--pixels", pixels, "--out", "o")  # fmt: skip
    size = 330 if batch_size == "full" else int(batch_size)
    if loss == "mse":
        model = oracle(
            size, 2, nn.MSELoss(), torch.eye(10).double()[TRAIN.labels], schedule, pixels
        )
    else:
        model = oracle(size, 2, nn.CrossEntropyLoss(), TRAIN.labels, schedule, pixels)
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
        # 330 samples in batches of 32: 11 steps an epoch, 66 in all, the peak at 13.2
        (
            "triangle",
            [
                sum(min(s / 13.2, (66 - s) / 52.8) for s in range(11 * e, 11 * e + 11)) / 11
                for e in range(6)
            ],
        ),
    ],
)
@each_engine
def test_schedules(name, schedule, wanted):
    run("--engine", name, "--schedule", schedule, "--epochs", 6, "--lr", 0.02, "--out", "o")
    assert [r["lr"] for r in rows("o")] == pytest.approx([0.02 * w for w in wanted])


@pytest.mark.parametrize("wanted", ["auto", "fused", "layers", "torch"])
def test_the_run_says_which_engine_it_uses(wanted, capsys):
    run("--engine", wanted, "--epochs", 1, "--out", "o")
    name = "fused" if wanted == "auto" else wanted
    assert f"; {name} engine, float32 on cpu" in capsys.readouterr().out


def test_recipe():
    run("--recipe", "fast", "--epochs", 3, "--out", "o")  # `run` gives --hidden and --batch-size
    options = state("o")["options"]
    recipe = RECIPES["fast"]
    for name, value in {**DEFAULTS, **recipe, "epochs": 3}.items():
        if name not in ("hidden", "batch_size", "device", "data_dir", "out", "resume", "recipe"):
            assert options[name] == value, name
    assert options["hidden"] == [16]
    given = complete({"recipe": "fast"}, None)
    assert {name: getattr(given, name) for name in recipe} == recipe


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
