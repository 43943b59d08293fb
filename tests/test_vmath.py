"""The functions of csrc/cpu/vmath.inl, per size of a vector: within 2 units in the last place."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from native_build import CSRC, TESTS, Fault, compile_objects, link, missing, run

import gdext

pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of other processors"),
]

FLAGS = {
    "scalar": ["-DGDEXT_VEC_BYTES=0"],
    "avx2": ["-DGDEXT_VEC_BYTES=32", "-mavx2", "-mfma", "-mf16c"],
    "avx512": [
        "-DGDEXT_VEC_BYTES=64",
        "-mavx2",
        "-mfma",
        *(f"-mavx512{x}" for x in ("f", "bw", "dq", "vl")),
    ],
}
# GCC's own headers make undefined vectors of undefined variables (GCC bug 105593).
COMMON = ["-std=c++20", "-O2", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]


def worst(isa: str, csrc: Path, folder: Path) -> dict[tuple[str, str], float]:
    """The largest error of each function and type."""
    cpu = gdext.build_info()["cpu"]
    if isa not in cpu["compiled"][cpu["compiled"].index(cpu["in_use"]) :]:
        pytest.skip(f"this processor does not have {isa}")
    flags = [*COMMON, *FLAGS[isa], f"-I{csrc}"]
    objects = compile_objects([TESTS / "native" / "vmath_main.cpp"], flags, folder)
    done = run(link(objects, folder / "vmath"))
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return {(name, dtype): float(error) for name, dtype, error, *_ in rows}


@pytest.mark.parametrize("isa", FLAGS)
def test_within_two_units_in_the_last_place(isa, tmp_path):
    errors = worst(isa, CSRC, tmp_path)
    assert len(errors) == 10
    assert max(errors.values()) <= 2, errors


def test_a_wrong_digit_is_found(tmp_path):
    fault = Fault("cpu/vmath.inl", "0.16666636f,   0.04166651f", "0.16665636f,   0.04166651f")
    errors = worst("scalar", fault.plant(CSRC, tmp_path), tmp_path)
    assert errors["exp", "float32"] > 2 > errors["exp", "float64"]
