"""The CPU kernels alone, compared with naive loops and watched by the compiler's sanitizers.

tests/native/README.md says how to do the same by hand.
"""

from __future__ import annotations

import os
import platform
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from native_build import CSRC, TESTS, Fault, compile_objects, link, missing, run

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

NATIVE = TESTS / "native"
DTYPES = ["f32", "f64", "bf16", "f16"]
COMMON = ["-std=c++20", "-O1", "-DGDEXT_BACKEND=cpu", f"-I{NATIVE}"]
ADDRESS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
THREAD = ["-fsanitize=thread"]


def sources(csrc: Path) -> list[Path]:
    drivers = [path for path in sorted(NATIVE.glob("*.cpp")) if path.name != "team_main.cpp"]
    return [*sorted((csrc / "cpu").glob("*.cpp")), *drivers]


def build(flags: list[str], folder: Path) -> Path:
    objects = compile_objects(sources(CSRC), [*COMMON, f"-I{CSRC}", *flags], folder)
    return link(objects, folder / "cpu", flags)


def check(driver: Path, isa: str, dtype: str, *args: object) -> None:
    done = run(driver, dtype, *args, env={"GDEXT_CPU_ISA": isa})
    last = (done.stdout.splitlines() or [""])[-1]
    printed = re.fullmatch(rf"{isa}, {dtype}, seed 1: (\d+) numbers compared, 0 failures", last)
    assert done.returncode == 0 and printed, done.stdout + done.stderr
    assert int(printed[1]) > 0 and done.stderr == ""


# One test for a sanitizer, so that pytest-xdist does not build it in each of its processes.
def test_address_and_undefined_behaviour(tmp_path):
    driver = build(ADDRESS, tmp_path)
    isas = run(driver, "isas").stdout.strip().split(",")
    assert isas[-1] == "scalar"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda case: check(driver, *case), [(i, d) for i in isas for d in DTYPES]))


def test_threads(tmp_path):
    """Races do not depend on the instruction set: the best one's are looked for."""
    driver = build(THREAD, tmp_path)
    isa = run(driver, "isas").stdout.strip().split(",")[0]
    for dtype in ["f32", "bf16"]:
        check(driver, isa, dtype)
