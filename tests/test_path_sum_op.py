"""gdext::path_sum_ called directly: it goes on where it stopped, and refuses bad tensors."""

import re

import pytest
import torch
from inputs import randn
from torch.library import opcheck

PATH_SUM = torch.ops.gdext.path_sum_.default


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.float64)


def arguments(**given):
    """A network 2-3-3-2, its second layer without bias, its last without activation; B = 2."""
    values = {
        "weights": [randn(3, 2, seed=1), randn(3, 3, seed=2), randn(2, 3, seed=3)],
        "inputs": [randn(2, 2, seed=4), randn(2, 3, seed=5), randn(2, 3, seed=6)],
        "slopes": [randn(2, 3, seed=7), randn(2, 3, seed=8), zeros(0)],
        "dy": randn(2, 2, seed=9),
        "dw": [zeros(3, 2), zeros(3, 3), zeros(2, 3)],
        "db": [zeros(3), zeros(0), zeros(2)],
        "counts": torch.zeros(2, dtype=torch.int64),
        "seconds": 10.0,
    }
    return {**values, **given}


PATHS = 3 * 3 * (3 * 2) + 3 * 3 * 2 + 2 * 4


def test_the_chain_rule_as_matrix_products():
    given = arguments()
    PATH_SUM(**given)
    w, a, s = given["weights"], given["inputs"], given["slopes"]
    dz3 = given["dy"]
    dz2 = dz3 @ w[2] * s[1]
    dz1 = dz2 @ w[1] * s[0]
    for got, wanted in zip(
        [*given["dw"], given["db"][0], given["db"][2]],
        [dz1.T @ a[0], dz2.T @ a[1], dz3.T @ a[2], dz1.sum(0), dz3.sum(0)],
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-13)
    walked, multiplications = given["counts"].tolist()
    assert walked == PATHS
    # Per sample: layer 1 has 3 units x 6 paths with s w s w (4 factors besides dy) and one more for
    # each of 2 weights; layer 2 has 3 units x 2 paths with s w; layer 3 has its inputs alone.
    layer1, layer2, layer3 = 18 * (2 * 5 + 4), 6 * (3 * 3), 2 * 3
    assert multiplications == 2 * (layer1 + layer2 + layer3)


def test_calls_go_on_where_the_last_one_stopped():
    whole, parts = arguments(), arguments(seconds=0.0)
    big = {name: [t.repeat(40_000, 1) for t in whole[name]] for name in ("inputs", "slopes")}
    big["slopes"][2] = zeros(0)
    big["dy"] = whole["dy"].repeat(40_000, 1)
    whole.update(big)
    parts.update(big)
    PATH_SUM(**whole)
    calls = 0
    while parts["counts"][0] < PATHS:
        PATH_SUM(**parts)
        calls += 1
    assert calls > 10
    assert torch.equal(whole["counts"], parts["counts"])
    for name in ("dw", "db"):
        assert all(torch.equal(a, b) for a, b in zip(whole[name], parts[name], strict=True))
    before = [t.clone() for t in parts["dw"]]
    PATH_SUM(**parts)  # nothing is left
    assert all(torch.equal(a, b) for a, b in zip(before, parts["dw"], strict=True))


def test_opcheck():
    opcheck(PATH_SUM, tuple(arguments().values()))


BAD = {
    "no layers": ({"weights": []}, ValueError, "weights: wanted one for each layer, got none"),
    "inputs": ({"inputs": [zeros(2, 2)]}, ValueError,
        "inputs: wanted 3 elements (one for each layer), got 1"),
    "slopes": ({"slopes": []}, ValueError, "slopes: wanted 3 elements"),
    "dw": ({"dw": []}, ValueError, "dw: wanted 3 elements"),
    "db": ({"db": []}, ValueError, "db: wanted 3 elements"),
    "dy": ({"dy": zeros(2)}, RuntimeError, "dy: wanted shape [B, O], B at least 1, got [2]"),
    "no samples": ({"dy": zeros(0, 2)}, RuntimeError, "B at least 1, got [0, 2]"),
    "outputs": ({"dy": zeros(2, 3)}, RuntimeError,
        "dy: wanted shape [2, 2] (the last layer's output), got [2, 3]"),
    "a width of 0": ({"weights": [zeros(0, 2), zeros(3, 3), zeros(2, 3)]}, RuntimeError,
        "weights[0]: wanted shape [out_features, in_features], no size of 0, got [0, 2]"),
    "a chain that breaks": ({"weights": [zeros(3, 2), zeros(3, 4), zeros(2, 3)]}, RuntimeError,
        "weights[1]: wanted shape [3, 3] (in_features: out_features of the layer below), got"),
    "float32": ({"weights": [zeros(3, 2).float(), zeros(3, 3), zeros(2, 3)]}, RuntimeError,
        "weights[0]: wanted float64 on cpu, all that path_sum has a kernel for, got float32 on"),
    "a stride": ({"weights": [zeros(2, 3).T, zeros(3, 3), zeros(2, 3)]}, RuntimeError,
        "weights[0]: wanted a contiguous tensor"),
    "counts": ({"counts": zeros(2)}, RuntimeError, "counts: wanted int64 on cpu, got float64"),
    "negative counts": ({"counts": torch.tensor([-1, 0])}, ValueError,
        "counts: wanted paths walked >= 0, got -1"),
    "seconds": ({"seconds": float("nan")}, ValueError,
        "seconds: wanted a finite number >= 0, got nan"),
    "more than can be counted": ({"weights": [zeros(8, 8)] * 21, "inputs": [zeros(2, 8)] * 21,
        "slopes": [zeros(0)] * 21, "dy": zeros(2, 8), "dw": [zeros(8, 8)] * 21,
        "db": [zeros(0)] * 21}, ValueError, "path_sum: wanted fewer than 9e+18 multiplications"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_bad_call(case):
    changed, kind, message = BAD[case]
    given = arguments(**changed)
    with pytest.raises(kind, match=re.escape(message)):
        PATH_SUM(**given)
    assert not any(t.any() for t in given["dw"])
