#!/usr/bin/env python3
"""Compile csrc/cuda for each architecture with warnings as errors, and write down what its kernels
use: registers, shared memory, spills.

    scripts/cuda_resources.py                                # docs/cuda_resources.md, some minutes
    scripts/cuda_resources.py --archs 9.0 --out /tmp/a.md    # one architecture

Exits with 1 where a kernel spills registers to memory, or does not compile. What ptxas said is kept
in build/cuda_resources/ and used again while no source is newer.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from build_support.environment import BuildError, find_compiler, find_torch
from build_support.ninja_build import Plan, nvcc_flags
from build_support.toolkit import CudaToolkit, ToolkitError, default_archs, find_toolkit

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "cuda_resources"

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for '\S+'\n"
    r"(?:.*\n)*?.*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
    r".*?Used (?P<registers>\d+) registers(?P<rest>.*)"
)


class Use(NamedTuple):
    """Of one kernel on one architecture: registers of a thread, bytes of a block, bytes spilled."""

    registers: int
    shared: int
    spilled: int


def parse(said: str) -> dict[str, Use]:
    """By mangled name, from what ptxas -v says."""
    uses = {}
    for entry in ENTRY.finditer(said):
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        uses[entry["name"]] = Use(
            int(entry["registers"]),
            int(shared[1]) if shared else 0,
            int(entry["stores"]) + int(entry["loads"]),
        )
    return uses


def short(name: str) -> str:
    """A demangled kernel without namespaces, return type and parameters."""
    name = re.sub(r"\(anonymous namespace\)::|gdext::(cuda::)?", "", name).removeprefix("void ")
    depth, end = 0, len(name)
    for i, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            end = i
            break
    return re.sub(r"\((?:int|bool)\)", "", name[:end])


def demangle(names: list[str]) -> list[str]:
    """By c++filt, which comes with every compiler that nvcc works with."""
    done = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    return [short(line) for line in done.stdout.splitlines()]


def compile_one(plan: Plan, source: Path, arch: str) -> str:
    """What ptxas says of `source` for `arch`.

    Raises:
        BuildError: it does not compile without warnings; the compiler's words are the message.
    """
    log = LOGS / f"{source.stem}.{arch}.log"
    newest = max(path.stat().st_mtime for path in (ROOT / "csrc").rglob("*.*"))
    if log.exists() and log.stat().st_mtime > newest:
        return log.read_text()
    flags = nvcc_flags(Plan(**{**vars(plan), "archs": (arch,)}))
    flags += ["-Werror", "all-warnings", "-Xptxas", "-v", "-cubin"]
    assert plan.toolkit is not None
    command = [str(plan.toolkit.nvcc), *flags, str(source), "-o", str(log.with_suffix(".cubin"))]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise BuildError(f"{source.name} for {arch}:\n{done.stdout}")
    log.write_text(done.stdout)
    return done.stdout


def report(uses: dict[str, dict[str, Use]], archs: list[str], toolkit: str) -> str:
    """`uses`: of each architecture, by kernel's name."""
    lines = [
        "# What the CUDA kernels use",
        "",
        f"Registers of a thread / bytes of shared memory of a block, by nvcc {toolkit} "
        "for each compute capability; spills to local memory are named, in bytes, where there are "
        "any. Made by `scripts/cuda_resources.py`.",
        "",
        f"| kernel | {' | '.join(archs)} |",
        f"| --- |{' --: |' * len(archs)}",
    ]
    for name in sorted({name for of_arch in uses.values() for name in of_arch}):
        cells = [_cell(uses[arch].get(name)) for arch in archs]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(use: Use | None) -> str:
    if use is None:
        return ""
    spilled = f", spills {use.spilled}" if use.spilled else ""
    return f"{use.registers} / {use.shared:,}{spilled}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", nargs="+", help="default: those that gdext is built for")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "cuda_resources.md")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    try:
        toolkit: CudaToolkit = find_toolkit(os.environ)
        plan = Plan("", ROOT, find_torch(), find_compiler(os.environ), toolkit, ())
        archs = chosen.archs or default_archs(toolkit.supported_archs)
        LOGS.mkdir(parents=True, exist_ok=True)
        jobs = [(arch, s) for arch in archs for s in sorted((ROOT / "csrc/cuda").glob("*.cu"))]
        with ThreadPoolExecutor(chosen.jobs) as pool:
            said = list(pool.map(lambda job: compile_one(plan, job[1], job[0]), jobs))
    except (BuildError, ToolkitError) as error:
        print(f"cuda_resources.py: error: {error}", file=sys.stderr)
        return 1
    uses: dict[str, dict[str, Use]] = {arch: {} for arch in archs}
    for (arch, _), text in zip(jobs, said, strict=True):
        found = parse(text)
        uses[arch].update(zip(demangle([*found]), found.values(), strict=True))
    chosen.out.write_text(report(uses, archs, toolkit.version))
    spills = [f"{n} for {a}: {u.spilled} bytes" for a in archs for n, u in uses[a].items()
              if u.spilled]  # fmt: skip
    for spill in spills:
        print(f"cuda_resources.py: error: registers are spilled by {spill}", file=sys.stderr)
    print(f"{sum(map(len, uses.values()))} kernels, {len(spills)} with spills; {chosen.out}")
    return 1 if spills else 0


if __name__ == "__main__":
    sys.exit(main())
