"""docs/gradients.md: its code runs, its numbers are those of the JSON beside its figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from gdext import gradients

ROOT = Path(__file__).resolve().parent.parent
PAGE, FIGURES = ROOT / "docs/gradients.md", ROOT / "docs/figures"

if not PAGE.exists():
    pytest.skip("the documents are not here", allow_module_level=True)

TEXT = PAGE.read_text()
GRADIENTS = json.loads((FIGURES / "gradients.json").read_text())
DESCENT = json.loads((FIGURES / "descent.json").read_text())


def test_the_code_runs():
    torch.manual_seed(0)
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 6
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "gradients.md", "exec"), names)


def words(text: str) -> str:
    return " ".join(text.split())


def numbers():
    """Phrases of the page, their numbers filled in."""
    claims, fits = GRADIENTS["claims"], GRADIENTS["fits"]
    minutes = claims["path_sum, seconds by the fit"] / 60
    milliseconds = 1e3 * claims["backprop, seconds by the fit"]
    million = claims["path_sum/backprop, seconds by the fits"] / 1e6
    billion = claims["path_sum/backprop, multiplications"] / 1e9
    measured = max(p["layers"] for p in GRADIENTS["points"] if p["engine"] == "path_sum")
    yield f"With the layers of width {GRADIENTS['width']}, one sample"
    yield (
        f"have b = {fits['backprop']['base']:.2f} for backprop and "
        f"b = {fits['path_sum']['base']:.2f} for path_sum"
    )
    yield f"exp(20)/20 is {claims['exp(L)/L'] / 1e6:.1f} million"
    yield (
        f"for {claims['layers']} layers: path_sum would take {minutes:.0f} minutes for one update, "
        f"backprop takes {milliseconds:.2f} ms, {million:.3g} million times less"
    )
    yield f"By multiplications it is {billion:.3g} billion"
    yield f"({GRADIENTS['multiplications']['backprop'][-1]} multiplications)"
    yield f"path_sum was measured up to {measured} layers"

    plane, network = DESCENT["least_squares"], DESCENT["mnist"]
    limit = plane["largest_stable_rate"]
    full = {t["rate"]: t for t in plane["trajectories"] if t["method"] == "gradient descent"}
    shares = [f"{full[rate]['gamma'] / limit:.3g}" for rate in ("too small", "right", "too large")]
    yield f"to {plane['samples']} points. There 2 / lambda = {limit:.3g}"
    yield "the three panels have {}, {} and {} of it".format(*shares)
    costs = full["too large"]["costs"]
    yield f"After {len(full['right']['costs']) - 1} updates the first"
    yield f"C went from {costs[0]:.1f} to {costs[-1]:.1f} in {len(costs) - 1} steps"
    before, after = network["noise"]
    yield f"a network on {before['samples']:,} images"
    yield f"the gradient of one sample is {before['deviation']:.1f} times the full gradient's norm"
    yield f"after {after['epochs']} epochs"
    yield f"is small, {after['deviation']:.0f} times"
    yield f"({network['network']}, {network['images']:,} images"
    for run in network["runs"]:
        if run["rate"] == "right":
            curve, B = run["curve"], run["batch_size"]
            yield (
                f"| {run['method']} | {B:,} | {run['gamma']:g} | {run['epochs']} | "
                f"{curve['samples'][-1] // B:,} | {curve['seconds'][-1]:.2g} | "
                f"{curve['loss'][-1]:.3f} |"
            )


@pytest.mark.parametrize("phrase", list(numbers()))
def test_numbers(phrase):
    assert phrase in words(TEXT)


def test_what_the_page_says_of_the_runs():
    for measured in DESCENT["mnist"]["noise"]:
        assert measured["bias"] < 1e-12
    before, after = DESCENT["mnist"]["noise"]
    assert after["full"] < before["full"]
    runs = {(r["method"], r["rate"]): r["curve"] for r in DESCENT["mnist"]["runs"]}
    methods = dict.fromkeys(method for method, _ in runs)
    for method in methods:
        small, right, large = (runs[method, r]["loss"] for r in ("too small", "right", "too large"))
        assert right[-1] < 0.5 * small[-1] and right[-1] < 0.2 * large[0]
        assert large[-1] > 0.99 * large[0]
    ends = {method: runs[method, "right"] for method in methods}
    full, mini, one = ends.values()
    assert mini["loss"][-1] < one["loss"][-1] < full["loss"][-1]
    assert max(mini["seconds"][-1], one["seconds"][-1]) < 0.2 * full["seconds"][-1]
    assert all(run["finite"] for run in DESCENT["mnist"]["runs"])


def test_the_figures_are_of_this_code():
    """Counts depend on the engines alone: had those changed, the times would be of others."""
    sizes = [GRADIENTS["width"]] * (GRADIENTS["layers"] + 1)
    for engine in gradients.ENGINES:
        assert GRADIENTS["multiplications"][engine][-1] == gradients.cost(engine, sizes)


@pytest.mark.parametrize("page", [PAGE, ROOT / "README.md"], ids=lambda page: page.name)
def test_links_of_the_page(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
