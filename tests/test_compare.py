"""The comparators on planted faults: each must be caught, and a sound result must pass."""

import numpy as np
import pytest
import torch
from compare import (
    assert_as_accurate,
    assert_bits_equal,
    assert_same_vectors,
    cosine,
    relative_error,
    ulp,
)
from inputs import DTYPES, randn
from reference import linear

DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def product(dtype):
    """x w^T: PyTorch's result in `dtype`, the exact one, and the magnitude of its terms."""
    x, w = randn(16, 40, dtype=dtype, seed=1), randn(12, 40, dtype=dtype, seed=2)
    X, W = (t.double().numpy().astype(np.longdouble) for t in (x, w))
    return x @ w.T, X @ W.T, abs(X) @ abs(W).T


def test_ulp():
    def at(value):
        return float(ulp(torch.float32, np.longdouble(value)))

    eps = torch.finfo(torch.float32).eps
    assert at(1.0) == eps and at(-1.0) == eps and at(1.999) == eps
    assert at(2.0) == 2 * eps and at(0.999) == eps / 2
    assert at(0.0) == 2.0**-149
    assert float(ulp(torch.float16, np.longdouble(1e6))) == 32.0


@DTYPE
def test_sound_results_pass(dtype):
    peer, exact, scale = product(dtype)
    assert_as_accurate(peer, peer, exact, scale)
    rounded = torch.from_numpy(exact.astype(np.float64)).to(dtype)
    assert_as_accurate(rounded, rounded, exact, scale)
    assert_as_accurate(peer, rounded, exact, scale)


@DTYPE
@pytest.mark.parametrize("ulps,passes", [(0.9, True), (3, False)])
def test_one_element_off_by_ulps(dtype, ulps, passes):
    # Terms of size 1 that sum to 1; the peer is exact.
    exact = np.ones((4, 5), dtype=np.longdouble)
    peer = torch.ones(4, 5, dtype=dtype)
    got = peer.clone()
    got[2, 3] = 1 + (1 if passes else ulps) * torch.finfo(dtype).eps
    assert got[2, 3] != 1
    if passes:
        assert_as_accurate(got, peer, exact)
        return
    with pytest.raises(
        AssertionError, match=r"above the limit: 1 of 20 elements, first at \(2, 3\)"
    ):
        assert_as_accurate(got, peer, exact)


def test_drift_of_every_element_is_caught_by_the_norm():
    # Every element wrong by as much as the peer's single worst one: the maximum cannot see it.
    exact = np.ones(10_000, dtype=np.longdouble)
    eps = torch.finfo(torch.float32).eps
    peer = torch.ones(10_000)
    peer[0] += 8 * eps
    with pytest.raises(AssertionError, match="norm of the error"):
        assert_as_accurate(torch.full((10_000,), 1 + 8 * eps), peer, exact)


def test_cancellation_is_judged_at_the_terms_scale():
    exact = np.full(3, 1e-4, dtype=np.longdouble)
    peer = torch.full((3,), 1e-4)
    got = peer + torch.finfo(torch.float32).eps / 2
    assert_as_accurate(got, peer, exact, scale=1.0)
    with pytest.raises(AssertionError, match="above the limit"):
        assert_as_accurate(got, peer, exact)


def _negate(t):
    return -t


def _negate_one(t):
    t[3, 2] = -t[3, 2]
    return t


def _nan(t):
    t[0, 1] = float("nan")
    return t


def _inf(t):
    t[0, 1] = float("inf")
    return t


def _stale_row(t):
    t[-1] = 0
    return t


FAULTS = {
    "wrong sign": (_negate, "above the limit"),
    "one wrong sign": (_negate_one, "above the limit: 1 of"),
    "transposed": (lambda t: t.T.contiguous(), "shapes"),
    "transposed, shape kept": (lambda t: t.T.reshape(t.shape), "above the limit"),
    "NaN in one place": (_nan, r"NaN where PyTorch has none.* 1 of"),
    "inf in one place": (_inf, "inf where PyTorch has none"),
    "last row not written": (_stale_row, "above the limit: 12 of"),
    "scaled by 1.02": (lambda t: t * 1.02, "above the limit"),
    "wrong dtype": (
        lambda t: t.to(torch.float32 if t.dtype != torch.float32 else torch.float64),
        "dtype",
    ),
    "wrong shape": (lambda t: t[:, :-1], "shapes"),
    "extra dimension": (lambda t: t[None], "shapes"),
}


@DTYPE
@pytest.mark.parametrize("fault", FAULTS)
def test_accuracy_rule_catches(dtype, fault):
    peer, exact, scale = product(dtype)
    plant, message = FAULTS[fault]
    with pytest.raises(AssertionError, match=message):
        assert_as_accurate(plant(peer.clone()), peer, exact, scale)


@DTYPE
def test_accuracy_rule_catches_a_lost_nan(dtype):
    peer, exact, scale = product(dtype)
    exact[0, 1] = np.nan
    with pytest.raises(AssertionError, match="NaN where PyTorch has none or vice versa"):
        assert_as_accurate(peer, _nan(peer.clone()), exact, scale)


def test_stored_intermediates_count_in_16_bit_alone():
    exact = np.ones(3, dtype=np.longdouble)
    for dtype, caught in ((torch.bfloat16, False), (torch.float32, True)):
        peer = torch.ones(3, dtype=dtype)
        got = peer + 4 * torch.finfo(dtype).eps
        if caught:
            with pytest.raises(AssertionError, match="above the limit"):
                assert_as_accurate(got, peer, exact, stored=3.0)
        else:
            assert_as_accurate(got, peer, exact, stored=3.0)
            with pytest.raises(AssertionError, match="above the limit"):
                assert_as_accurate(got, peer, exact, stored=2.0)


def test_overflow_of_the_peer_alone_is_no_fault():
    exact = np.array([6e4, 1.0, 2.0], dtype=np.longdouble)
    got, peer = torch.tensor([6e4, 1, 2]).half(), torch.tensor([float("inf"), 1, 2]).half()
    assert_as_accurate(got, peer, exact)
    for wrong, message in ((5e4, "above the limit"), (float("nan"), "NaN where")):
        got[0] = wrong
        with pytest.raises(AssertionError, match=message):
            assert_as_accurate(got, peer, exact)
    exact[0] = 1e5  # more than float16 holds: now inf is right, and 6e4 wrong
    got[0] = 6e4
    with pytest.raises(AssertionError, match="inf where PyTorch has none or vice versa"):
        assert_as_accurate(got, peer, exact)


def gradients() -> dict[str, torch.Tensor | None]:
    arrays = [
        randn(*s, seed=i).numpy().astype(np.longdouble)
        for i, s in enumerate([(8, 6), (6, 6), (6,), (8, 6)])
    ]
    r = linear(*arrays[:3], "tanh", arrays[3])
    named = {"weight": r.dw, "bias": r.db, "input": r.dx}
    return {k: torch.from_numpy(v.astype(np.float64)) for k, v in named.items()} | {"frozen": None}


def _change(name, change):
    def plant(named):
        named[name] = change(named[name])
        return named

    return plant


def _drop_bias(named):
    del named["bias"]
    return named


def _one_element(t):
    t.view(-1)[4] += 0.01 * t.norm()
    return t


VECTOR_FAULTS = {
    "wrong sign": (_change("weight", _negate), "weight: relative error 2"),
    "transposed weight": (_change("weight", lambda t: t.T), "weight: relative error"),
    "missing bias": (_drop_bias, "names"),
    "bias gradient None": (_change("bias", lambda t: None), "bias: .*NoneType"),
    "bias gradient zero": (_change("bias", torch.zeros_like), "bias: relative error 1"),
    "gradient for a frozen parameter": (_change("frozen", lambda t: torch.zeros(1)), "frozen"),
    "mean for sum": (_change("bias", lambda t: t / 8), "bias: relative error 0.875"),
    "single wrong element": (_change("input", _one_element), "input: relative error 0.01"),
    "NaN": (_change("bias", lambda t: t * float("nan")), "bias: relative error nan"),
    "accumulated twice": (_change("weight", lambda t: 2 * t), "weight: relative error 1"),
    "shape": (_change("bias", lambda t: t[None]), "bias: .*wanted"),
}


@pytest.mark.parametrize("fault", VECTOR_FAULTS)
def test_vector_comparator_catches(fault):
    plant, message = VECTOR_FAULTS[fault]
    with pytest.raises(AssertionError, match=message):
        assert_same_vectors(plant(gradients()), gradients(), tolerance=1e-3)


def test_vector_comparator_passes_what_is_within_tolerance():
    assert_same_vectors(gradients(), gradients(), tolerance=0.0 + 1e-15)
    near = {k: None if v is None else v * (1 + 1e-7) for k, v in gradients().items()}
    assert_same_vectors(near, gradients(), tolerance=1e-6)


def test_vector_measures():
    zero, one = torch.zeros(2), torch.tensor([1.0, 0.0])
    assert relative_error(zero, zero) == 0 and relative_error(one, zero) == float("inf")
    assert cosine(zero, zero) == 1 and cosine(one, zero) == 0 and cosine(-one, one) == -1
    with pytest.raises(AssertionError, match="expected tensor is not finite"):
        assert_same_vectors({"a": one * float("nan")}, {"a": one * float("nan")}, 1.0)


def test_bits():
    t = torch.tensor([1.0, float("nan"), 0.0])
    assert_bits_equal(t, t.clone())
    for other in (t.double(), t[:2], torch.tensor([1.0 + 2**-23, float("nan"), 0.0])):
        with pytest.raises(AssertionError):
            assert_bits_equal(other, t)
