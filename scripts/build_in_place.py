#!/usr/bin/env python3
"""Build gdext/_C.abi3.so beside its sources with what is at hand: PyTorch and a C++ compiler, nvcc
for CUDA. Neither setuptools nor the network is needed, and ninja is used only where there is one.

The environment is setup.py's: GDEXT_CUDA, CUDA_HOME, TORCH_CUDA_ARCH_LIST, CXX, MAX_JOBS.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build_support import ninja_build
from build_support.environment import (
    BuildError,
    decide_cuda,
    find_compiler,
    find_ninja,
    find_torch,
)
from build_support.toolkit import ToolkitError, choose_archs

ROOT = Path(__file__).resolve().parent.parent


def make_plan() -> ninja_build.Plan:
    torch, cxx = find_torch(), find_compiler(os.environ)
    toolkit, notes = decide_cuda(os.environ, torch)
    for note in notes:
        print(f"gdext: {note}", file=sys.stderr)
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    archs = choose_archs(wanted, toolkit.supported_archs) if toolkit else ()
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    return ninja_build.Plan(version[1], ROOT, torch, cxx, toolkit, archs)


def build_without_ninja(plan: ninja_build.Plan, jobs: int) -> Path:
    """Everything anew, several sources at a time.

    Raises:
        BuildError: a compiler failed; what it said is above.
    """
    extension = plan.build_dir / "_C.abi3.so"
    commands, objects = [], []
    for source in ninja_build.sources(plan.root, cuda=plan.toolkit is not None):
        out = plan.build_dir / source.with_suffix(source.suffix + ".o")
        out.parent.mkdir(parents=True, exist_ok=True)
        compiler, flags = ninja_build.compilation(plan, source)
        commands.append([*compiler, *flags, "-c", str(plan.root / source), "-o", str(out)])
        objects.append(str(out))

    def run(command: list[str]) -> bool:
        return subprocess.run(command).returncode == 0

    with ThreadPoolExecutor(jobs) as pool:
        compiled = all(list(pool.map(run, commands)))
    link = [*plan.cxx, "-shared", *objects, *ninja_build.link_flags(plan), "-o", str(extension)]
    if not (compiled and run(link)):
        raise BuildError("the compilation failed; the first error is above")
    return extension


def main() -> int:
    try:
        plan = make_plan()
        print(f"gdext: building for {' '.join(plan.archs) or 'the CPU alone'}", flush=True)
        try:
            ninja = find_ninja(os.environ)
        except BuildError:
            jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
            built = build_without_ninja(plan, jobs)
        else:
            built = ninja_build.build(plan, ninja)
        unfinished = ROOT / "gdext" / "_C.new"
        shutil.copy(built, unfinished)
        os.replace(unfinished, ROOT / "gdext" / "_C.abi3.so")
    except (BuildError, ToolkitError) as error:
        print(f"gdext: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
