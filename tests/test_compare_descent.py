"""scripts/compare_descent.py: a small run on made-up images, least squares, and the noise."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec

import pytest
import torch
from inputs import randn
from mnist_runs import TRAIN

import gdext
from gdext import data
from gdext.descent import DivergenceError, descend
from gdext.instruments import compare_descent, descent_figures, least_squares, mnist, noise

EPOCHS = {"gradient descent": 20, "mini-batches of 32": 6, "one sample": 4}
IMAGES = 300


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("descent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "mnist", lambda: TRAIN)
        arguments = ["--images", IMAGES, "--epochs", *EPOCHS.values(), "--noise-epochs", 1]
        assert compare_descent.main([*map(str, arguments), "--out", str(folder)]) == 0
    pictures = {path.name for path in folder.glob("*.???")}
    if find_spec("matplotlib"):
        assert pictures == {
            f"descent-{name}.{kind}"
            for name in ("trajectories", "mnist", "noise")
            for kind in ("png", "svg")
        }
    return json.loads((folder / "descent.json").read_text())


def trajectories(results):
    found = results["least_squares"]["trajectories"]
    return {(t["method"], t["rate"]): t for t in found}


def test_the_limit_of_the_learning_rate():
    problem = least_squares.problem(0)
    limit = 2 / float(torch.linalg.eigvalsh(problem.hessian())[-1])
    start = torch.tensor([-2.0, 1.5], dtype=torch.float64)
    found = descend(problem.cost, start, 0.99 * limit, steps=2000)
    torch.testing.assert_close(found.points[-1], problem.minimum(), rtol=1e-6, atol=1e-6)
    assert found.gradients[-1].norm() < 1e-6
    with pytest.raises(DivergenceError):
        descend(problem.cost, start, 1.01 * limit, steps=2000)
    torch.testing.assert_close(
        torch.autograd.functional.hessian(problem.cost, start), problem.hessian()
    )


def test_trajectories_in_the_plane(results):
    problem, found = results["least_squares"], trajectories(results)
    least = problem["least_cost"]
    full = found["gradient descent", "right"]
    assert full["costs"] == sorted(full["costs"], reverse=True)
    assert full["costs"][-1] == pytest.approx(least, rel=1e-2)
    small = found["gradient descent", "too small"]
    assert small["costs"] == sorted(small["costs"], reverse=True) and small["costs"][-1] > 3 * least
    large = found["gradient descent", "too large"]
    assert large["costs"][-1] > large["costs"][0] and "diverged at step" in large["diverged"]
    for method in ("mini-batches of 16", "one sample"):
        right = found[method, "right"]
        assert right["costs"] != sorted(right["costs"], reverse=True)
        assert sum(right["costs"][-20:]) / 20 < 2 * least
        assert max(found[method, "too large"]["costs"]) > 2 * right["costs"][0]
    assert all(t["points"][0] == list(least_squares.START) for t in found.values())


def test_one_sample_gradients_are_unbiased_and_noisy(results):
    found = results["least_squares"]["gradients"]
    each, full = torch.tensor(found["each"]).double(), torch.tensor(found["full"]).double()
    torch.testing.assert_close(each.mean(dim=0), full, rtol=1e-6, atol=1e-6)
    assert found["bias"] < 1e-14 and found["deviation"] > 1
    spread = (each - full).square().sum(dim=1).mean().sqrt() / full.norm()
    assert found["deviation"] == pytest.approx(float(spread), rel=1e-6)
    before, after = results["mnist"]["noise"]
    assert (before["epochs"], after["epochs"]) == (0, 1)
    for measured in (before, after):
        assert measured["samples"] == IMAGES and measured["bias"] < 1e-12
        sizes = [batch["batch_size"] for batch in measured["batches"]]
        assert sizes == [1, 4, 16, 64]
        for batch in measured["batches"]:
            assert batch["deviation"] == pytest.approx(batch["expected"], rel=0.35)
        assert measured["batches"][0]["deviation"] == pytest.approx(measured["deviation"])


def test_the_noise_by_its_definition():
    model = gdext.nn.MLP([3, 2], dtype=torch.float64)
    x, y = randn(6, 3), torch.tensor([0, 1, 1, 0, 1, 0])

    def gradient(rows):
        C = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(C, list(model.parameters()))])

    full = gradient(slice(None))
    each = torch.stack([gradient([i]) for i in range(6)])
    s = (each - full).square().sum(dim=1).mean().sqrt() / full.norm()
    found = noise.measure(model, x, y, [1, 2, 6], torch.Generator().manual_seed(1))
    assert found["deviation"] == pytest.approx(float(s))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    pairs = torch.stack([gradient(order[i : i + 2]) for i in (0, 2, 4)])
    off = (pairs - full).square().sum(dim=1).mean().sqrt() / full.norm()
    one, two, all_of_them = found["batches"]
    assert one["deviation"] == pytest.approx(float(s)) == one["expected"]
    assert two["deviation"] == pytest.approx(float(off))
    assert two["expected"] == pytest.approx(float(s) * math.sqrt(4 / 5 / 2))
    assert all_of_them["deviation"] < 1e-12 and all_of_them["expected"] == 0


def test_mnist_runs(results):
    runs = results["mnist"]["runs"]
    assert results["mnist"]["images"] == IMAGES
    assert [(run["method"], run["rate"]) for run in runs] == [
        (method, rate) for method in EPOCHS for rate in ("too small", "right", "too large")
    ]
    for run in runs:
        curve, epochs = run["curve"], EPOCHS[run["method"]]
        B = run["batch_size"]
        assert curve["samples"][0] == 0 and curve["samples"] == sorted(set(curve["samples"]))
        assert curve["samples"][-1] == epochs * math.ceil(IMAGES / B) * B
        assert curve["seconds"] == sorted(curve["seconds"])
        assert len(curve["loss"]) == len(curve["samples"]) and run["finite"]
    by_method = {m: [r["curve"]["loss"] for r in runs if r["method"] == m] for m in EPOCHS}
    # Too large a rate for MNIST need not be one for these images: tests/test_docs.py looks there.
    for small, right, large in by_method.values():
        assert small[0] == right[0] == large[0]
        assert right[-1] < small[-1] < small[0] + 0.02
        assert max(right[1:]) < right[0]


def test_a_run_is_that_of_a_plain_loop():
    images = mnist.Images(TRAIN.images[:100].flatten(1), TRAIN.labels[:100], "made up")
    found = mnist.run(images, mnist.METHODS[0], "right", 5, seed=3)
    torch.manual_seed(3)
    model = gdext.nn.MLP([784, mnist.HIDDEN, 10])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = [mnist.loss_of(model, images)]
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images.floats), images.labels).backward()
        optimizer.step()
        losses.append(mnist.loss_of(model, images))
    assert found["curve"]["samples"] == [0, 100, 200, 300, 400, 500]
    assert found["curve"]["loss"] == pytest.approx(losses, rel=1e-4)


def test_a_run_whose_loss_is_no_longer_finite_ends_there():
    images = mnist.Images(TRAIN.images[:50].flatten(1), TRAIN.labels[:50], "made up")
    method = mnist.Method("gradient descent", None, {"right": 1e38})
    found = mnist.run(images, method, "right", 5, seed=0)
    assert not found["finite"]
    assert len(found["curve"]["loss"]) < 6 and all(map(math.isfinite, found["curve"]["loss"]))


def test_pictures(results):
    new = pytest.importorskip("matplotlib.figure").Figure
    plane = descent_figures.trajectories(new, results)
    assert len(plane.axes) == 3 and len(plane.legends) == 1
    right = plane.axes[1]
    drawn = {line.get_label(): line.get_xydata() for line in right.lines}
    full = trajectories(results)["gradient descent", "right"]["points"]
    assert drawn["gradient descent"].tolist() == full
    network = descent_figures.mnist(new, results)
    assert [axes.get_xlabel() for axes in network.axes[:3]] == [
        "epochs (passes over all images)", "samples seen", "seconds of training",
    ]  # fmt: skip
    assert all(len(axes.lines) == 3 for axes in network.axes)
    cloud = descent_figures.noise(new, results)
    for figure in (plane, network, cloud):
        for axes in figure.axes:
            assert axes.get_xlabel()
            shared = axes.get_shared_y_axes().get_siblings(axes)
            assert any(other.get_ylabel() for other in shared)
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
        assert any(legend is not None for legend in legends)


def test_bad_options_are_one_line(monkeypatch, tmp_path, capsys):
    def missing():
        raise data.DataError("no MNIST here")

    out = ["--out", str(tmp_path / "o")]
    monkeypatch.setattr(data, "mnist", lambda: TRAIN)
    assert compare_descent.main(["--images", "331", *out]) == 2
    assert "--images 331: the training set has 330 samples" in capsys.readouterr().err
    assert compare_descent.main(["--epochs", "1", "2", *out]) == 2
    assert "--epochs: expected 3 arguments" in capsys.readouterr().err
    monkeypatch.setattr(data, "mnist", missing)
    assert compare_descent.main(out) == 2
    assert capsys.readouterr().err == "compare_descent.py: error: no MNIST here\n"
    assert not (tmp_path / "o").exists()
