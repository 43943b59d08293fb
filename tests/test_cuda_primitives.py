"""What kernels are made of (tests/cuda_on_cpu/primitives): that nvcc compiles its tests; and on a
GPU whether the emulation, which passes them too, is true."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import cuda_missing
from native_build import CSRC, TESTS, succeed

sys.path.insert(0, str(TESTS.parent / "scripts"))
from build_support.environment import find_compiler, find_torch
from build_support.ninja_build import Plan, nvcc_flags
from build_support.toolkit import ToolkitError, find_toolkit

PRIMITIVES = TESTS / "cuda_on_cpu" / "primitives"


def compile_primitives(folder: Path) -> Path:
    try:
        toolkit = find_toolkit(os.environ)
    except ToolkitError as error:
        pytest.skip(str(error))
    plan = Plan("", CSRC.parent, find_torch(), find_compiler(os.environ), toolkit, ("9.0",))
    sources = sorted(PRIMITIVES.glob("*.cu"))
    objects = [folder / f"{source.stem}.o" for source in sources]
    commands = [
        [toolkit.nvcc, *nvcc_flags(plan), "-Werror", "all-warnings", "-c", source, "-o", obj]
        for source, obj in zip(sources, objects, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(succeed, commands))
    driver = folder / "primitives"
    succeed([toolkit.nvcc, *nvcc_flags(plan), *objects, "-o", driver])
    return driver


@pytest.mark.skipif(not CSRC.is_dir(), reason="the kernels' sources are not here")
def test_primitives(tmp_path):
    driver = compile_primitives(tmp_path)
    if cuda_missing():
        pytest.skip(f"compiled, not run: {cuda_missing()}")
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("compiled, not run: clusters and wgmma as here are of compute capability 9.0")
    for seed in (1, 2, 3):
        done = subprocess.run([driver, str(seed)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"primitives, seed {seed}: " in done.stdout and " 0 failures" in done.stdout
