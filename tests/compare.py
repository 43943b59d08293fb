"""Comparators: is a result as accurate as PyTorch's own, and do two sets of gradients agree?

They are tested on planted faults in test_compare.py.
"""

from collections.abc import Mapping

import numpy as np
import torch

_ACCUMULATOR = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


def to_numpy(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """`values` exactly, in long double (on x86 its 64-bit mantissa holds every float64)."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.longdouble)


def ulp(dtype: torch.dtype, magnitude: np.ndarray) -> np.ndarray:
    """The unit in the last place of `dtype` at `magnitude`, elementwise; at least a subnormal's."""
    finfo = torch.finfo(dtype)
    clipped = np.clip(np.abs(magnitude), finfo.smallest_normal, finfo.max)
    _, exponent = np.frexp(clipped)
    return np.ldexp(np.longdouble(finfo.eps), exponent - 1)


def _check_same_kind(got: torch.Tensor, peer: torch.Tensor, exact: np.ndarray, name: str) -> None:
    assert got.dtype == peer.dtype, f"{name}: dtype {got.dtype}, PyTorch's is {peer.dtype}"
    assert got.device == peer.device, f"{name}: on {got.device}, PyTorch's is on {peer.device}"
    shapes = tuple(got.shape), tuple(peer.shape), tuple(exact.shape)
    assert shapes[0] == shapes[1] == shapes[2], f"{name}: shapes of got, peer, exact are {shapes}"


def _where(mask: np.ndarray) -> str:
    indices = np.argwhere(mask)
    first = ", ".join(str(tuple(int(i) for i in index)) for index in indices[:3])
    return f"{len(indices)} of {mask.size} elements, first at {first}"


def assert_same_nonfinite(
    got: torch.Tensor, peer: torch.Tensor, name: str = "result", exact: np.ndarray | None = None
) -> None:
    """NaN, inf and -inf stand in `got` exactly where they stand in `peer`.

    Where `exact` is given, `got` may also be finite where PyTorch overflowed on its way to a result
    that is a number of the dtype.
    """
    g, p = to_numpy(got), to_numpy(peer)
    better = np.zeros(g.shape, dtype=bool)
    if exact is not None:
        better = np.isfinite(g) & (abs(exact) <= torch.finfo(got.dtype).max)
    for label, test in (("NaN", np.isnan), ("inf", np.isposinf), ("-inf", np.isneginf)):
        wrong = (test(g) != test(p)) & ~better
        assert not wrong.any(), (
            f"{name}: {label} where PyTorch has none or vice versa: {_where(wrong)}"
        )


def assert_as_accurate(
    got: torch.Tensor,
    peer: torch.Tensor,
    exact: torch.Tensor | np.ndarray,
    scale: torch.Tensor | np.ndarray | float | None = None,
    name: str = "result",
    stored: np.ndarray | float = 0,
) -> None:
    """`got`'s error is at most twice `peer`'s, PyTorch's result in the same dtype, plus one ulp.

    Errors are taken against `exact` (float64 or long double). `scale` is the magnitude of the terms
    that were summed into each element, e.g. |x| |w|^T + |b|, and defaults to |exact|. The ulp is
    the sum of the two roundings that no kernel can avoid:
      - one while summing, of the accumulation type, at `scale`: where terms cancel, an error that
        is large beside the result is still a rounding of the terms;
      - one while storing, of the dtype itself, at |exact|. (For float32 and float64 the
        accumulation type is the dtype, and the first alone is counted.)
    `stored`: where results pass through tensors of a 16-bit dtype on the way (dz, what an
    activation saved), how far one unit of relative rounding in each of those moves the result, as a
    random walk. PyTorch and gdext both round there, each its own way: a third part of the ulp.
    Two criteria, because one element may hide in a norm, and a drift of all elements in a maximum:
      - max over elements of error/ulp:  got <= 2 peer + 1. The maximum, not each element by itself:
        that PyTorch's rounding of one element happens to be exact binds nobody.
      - Euclidean norm:                  got <= 2 peer + |ulp|, the norm of the ulps.
    """
    truth = to_numpy(exact)
    _check_same_kind(got, peer, truth, name)
    assert_same_nonfinite(got, peer, name, truth)
    g, p = to_numpy(got), to_numpy(peer)
    p = np.where(np.isfinite(p) | ~np.isfinite(g), p, truth)  # where PyTorch alone overflowed
    finite = np.isfinite(p) & np.isfinite(truth)
    if not finite.any():
        return
    terms = np.abs(truth) if scale is None else np.broadcast_to(to_numpy(scale), truth.shape)
    terms = np.maximum(terms, np.abs(truth))
    dtype = got.dtype
    unit = ulp(_ACCUMULATOR[dtype], terms[finite])
    if _ACCUMULATOR[dtype] != dtype:
        walk = np.broadcast_to(to_numpy(stored), truth.shape)[finite]
        unit = unit + ulp(dtype, truth[finite]) + torch.finfo(dtype).eps * walk
    errors, peers = (np.abs(v[finite] - truth[finite]) for v in (g, p))

    worst, worst_peer = (errors / unit).max(), (peers / unit).max()
    bad = np.zeros(truth.shape, dtype=bool)
    bad[finite] = errors / unit > 2 * worst_peer + 1
    assert not bad.any(), (
        f"{name} ({dtype}): error {float(worst):.3g} ulp, PyTorch's {float(worst_peer):.3g} ulp; "
        f"above the limit: {_where(bad)}: got {float(g[bad][0])!r}, exact {float(truth[bad][0])!r}"
    )
    norm, norm_peer, norm_unit = (float(np.sqrt((v * v).sum())) for v in (errors, peers, unit))
    assert norm <= 2 * norm_peer + norm_unit, (
        f"{name} ({dtype}): norm of the error {norm:.3g}, PyTorch's {norm_peer:.3g}, "
        f"of the ulps {norm_unit:.3g}"
    )


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """|got - want| / |want|, Euclidean; 0 where both are all zeros, inf where only `want` is."""
    g, w = to_numpy(got), to_numpy(want)
    difference, size = (float(np.sqrt((v * v).sum())) for v in (g - w, w))
    if size == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / size


def cosine(got: torch.Tensor, want: torch.Tensor) -> float:
    """The cosine of the angle between two tensors taken as vectors; 1 where both are all zeros."""
    g, w = to_numpy(got), to_numpy(want)
    norms = float(np.sqrt((g * g).sum()) * np.sqrt((w * w).sum()))
    if norms == 0:
        return 1.0 if float(np.abs(g).sum() + np.abs(w).sum()) == 0 else 0.0
    return float((g * w).sum()) / norms


def assert_same_vectors(
    got: Mapping[str, torch.Tensor | None],
    want: Mapping[str, torch.Tensor | None],
    tolerance: float,
) -> None:
    """Every tensor of `want` is in `got`, same shape, and within `tolerance` as a vector.

    Judged per name, so that a small tensor (a bias) cannot hide behind a large one: the relative
    error is at most `tolerance`, and the cosine at least 1 - tolerance. None must meet None.
    """
    assert list(got) == list(want), f"names {list(got)}, wanted {list(want)}"
    for name, expected in want.items():
        actual = got[name]
        if expected is None or actual is None:
            assert actual is expected, f"{name}: {type(actual)}, wanted {type(expected)}"
            continue
        assert actual.shape == expected.shape, f"{name}: {actual.shape}, wanted {expected.shape}"
        assert bool(torch.isfinite(expected).all()), f"{name}: the expected tensor is not finite"
        error, angle = relative_error(actual, expected), cosine(actual, expected)
        # `not <=` rather than `>`: a NaN must fail.
        assert error <= tolerance, f"{name}: relative error {error:.3g}, limit {tolerance:.3g}"
        assert angle >= 1 - tolerance, f"{name}: cosine {angle}, limit 1 - {tolerance:.3g}"


def assert_close(
    got: torch.Tensor, want: torch.Tensor, tolerance: float, name: str = "result"
) -> None:
    """Same dtype and shape, and |got - want| <= tolerance (1 + |want|), NaN equal to NaN."""
    torch.testing.assert_close(
        got, want, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda m: f"{name}: {m}"
    )


def assert_bits_equal(got: torch.Tensor, want: torch.Tensor, name: str = "result") -> None:
    """Same dtype, shape and values (NaN equal to NaN, 0 to -0)."""
    assert_close(got, want, 0, name)
