"""scripts/cuda_resources.py: what it reads out of ptxas' words, and the table made of that."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import cuda_resources
from cuda_resources import Use

SAID = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z3oneILi1EEvv' for 'sm_90'
ptxas info    : Function properties for _Z3oneILi1EEvv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 16384 bytes smem
ptxas info    : Compile time = 9.451 ms
ptxas info    : Compiling entry function '_Z3twov' for 'sm_90'
ptxas info    : Function properties for _Z3twov
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 8 bytes cumulative stack size
"""
CLEAN = SAID.replace("12 bytes", "0 bytes").replace("16 bytes", "0 bytes")
NAME = (
    "void gdext::cuda::(anonymous namespace)::sgd_kernel<gdext::bfloat16, "
    "gdext::cuda::SgdTable<(int)112> >(gdext::cuda::SgdTable<(int)112>, float)"
)


def test_parse():
    assert cuda_resources.parse(SAID) == {
        "_Z3oneILi1EEvv": Use(32, 16384, 0),
        "_Z3twov": Use(255, 0, 28),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (NAME, "sgd_kernel<bfloat16, SgdTable<112> >"),
        ("gdext::cuda::update_kernel(float, long)", "update_kernel"),
    ],
)
def test_short_names(name, expected):
    assert cuda_resources.short(name) == expected


def test_the_table_is_of_the_present_kernels():
    sources = [*(cuda_resources.ROOT / "csrc" / "cuda").glob("*.cu*")]
    table = cuda_resources.ROOT / "docs" / "cuda_resources.md"
    if not sources or not table.exists():
        pytest.skip("the kernels' sources are not here")
    kernel = r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\("
    there = {name for source in sources for name in re.findall(kernel, source.read_text())}
    assert len(there) > 20
    assert {*re.findall(r"^\| `(\w+)", table.read_text(), re.MULTILINE)} == there


def test_report():
    uses = {"9.0": {"a": Use(32, 16384, 0), "b": Use(255, 0, 28)}, "12.0": {"a": Use(40, 0, 0)}}
    lines = cuda_resources.report(uses, ["9.0", "12.0"], "13.0").splitlines()
    assert lines[-4:] == [
        "| kernel | 9.0 | 12.0 |",
        "| --- | --: | --: |",
        "| `a` | 32 / 16,384 | 40 / 0 |",
        "| `b` | 255 / 0, spills 28 |  |",
    ]


@pytest.mark.parametrize(("said", "code"), [(SAID, 1), (CLEAN, 0)])
def test_spills_are_an_error(monkeypatch, tmp_path, capsys, said, code):
    toolkit = cuda_resources.CudaToolkit(tmp_path, tmp_path, tmp_path, "13.0", ("9.0",))
    monkeypatch.setattr(cuda_resources, "find_toolkit", lambda environ: toolkit)
    monkeypatch.setattr(cuda_resources, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(cuda_resources, "compile_one", lambda plan, source, arch: said)
    monkeypatch.setattr(cuda_resources, "demangle", lambda names: names)
    out = tmp_path / "table.md"
    monkeypatch.setattr(sys, "argv", ["cuda_resources.py", "--archs", "9.0", "--out", str(out)])
    if not (cuda_resources.ROOT / "csrc").is_dir():
        pytest.skip("the kernels' sources are not here")
    assert cuda_resources.main() == code
    assert "_Z3twov" in out.read_text()
    assert ("spilled by _Z3twov for 9.0: 28 bytes" in capsys.readouterr().err) == bool(code)
