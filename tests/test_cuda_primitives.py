"""What kernels are made of (tests/cuda_on_cpu/primitives), on the GPU: whether the emulation, which
passes the same tests, is true."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import cuda_missing
from native_build import CSRC, TESTS, succeed

PRIMITIVES = TESTS / "cuda_on_cpu" / "primitives"


def missing() -> str | None:
    """Why they cannot be run here, or None where they can."""
    if cuda_missing():
        return cuda_missing()
    if torch.cuda.get_device_capability() != (9, 0):
        return "clusters and wgmma are those of compute capability 9.0"
    if not CSRC.is_dir():
        return "the kernels' sources are not here"
    return None if shutil.which("nvcc") else "nvcc is not on PATH"


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def compile_primitives(folder: Path) -> Path:
    flags = ["-std=c++20", "-arch=sm_90a", f"-I{CSRC}"]
    sources = sorted(PRIMITIVES.glob("*.cu"))
    objects = [folder / f"{source.stem}.o" for source in sources]
    commands = [
        ["nvcc", *flags, "-c", source, "-o", obj]
        for source, obj in zip(sources, objects, strict=True)
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(succeed, commands))
    succeed(["nvcc", "-arch=sm_90a", *objects, "-o", folder / "primitives"])
    return folder / "primitives"


def test_primitives(tmp_path):
    driver = compile_primitives(tmp_path)
    for seed in (1, 2, 3):
        done = subprocess.run([driver, str(seed)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"primitives, seed {seed}: " in done.stdout and " 0 failures" in done.stdout
