"""Importing gdext: what it says when it cannot be imported, and what build_info() reports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gdext

PACKAGE = Path(gdext.__file__).parent


def import_error(folder: Path) -> str:
    """The last line of `import gdext` failing in an interpreter that looks in `folder` first."""
    done = subprocess.run(
        [sys.executable, "-c", "import gdext"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@pytest.fixture
def copied(tmp_path):
    """A folder with gdext's Python files, but not its compiled part."""
    (tmp_path / "gdext").mkdir()
    # An editable install's import hook would find the compiled part all the same.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in str(f)]\n"
    )
    for name in ("__init__.py", "_load.py"):
        (tmp_path / "gdext" / name).write_bytes((PACKAGE / name).read_bytes())
    return tmp_path


def test_torch_missing(copied):
    with (copied / "sitecustomize.py").open("a") as file:
        file.write("sys.modules['torch'] = None")
    message = import_error(copied)
    assert message.startswith("ImportError: gdext needs PyTorch 2.11 or newer, none is installed")
    assert "pip install" in message


def test_torch_too_old(copied):
    (copied / "torch.py").write_text('__version__ = "2.10.1+cpu"')
    message = import_error(copied)
    assert message.startswith("ImportError: gdext needs PyTorch 2.11 or newer, found 2.10.1+cpu")


def test_torch_that_fails_to_import_keeps_its_own_error(copied):
    (copied / "torch.py").write_text("import a_part_of_torch")
    assert import_error(copied) == "ModuleNotFoundError: No module named 'a_part_of_torch'"


def test_compiled_part_missing(copied):
    message = import_error(copied)
    assert message.startswith("ImportError: gdext's compiled part, gdext._C, is not built")
    assert "pip install --no-build-isolation" in message


def test_compiled_part_that_does_not_load(copied):
    (copied / "gdext" / "_C.abi3.so").write_bytes(b"not a library")
    message = import_error(copied)
    assert f"does not load under PyTorch {torch.__version__}" in message
    assert "pip install --no-build-isolation" in message


def test_build_info():
    info = gdext.build_info()
    assert json.loads(json.dumps(info)) == info
    assert info["version"] == gdext.__version__
    assert info["torch"]["running"] == torch.__version__
    assert "scalar" in info["cpu"]["compiled"]
    assert info["cpu"]["in_use"] in info["cpu"]["compiled"]
    cuda = info["cuda"]
    assert cuda["compiled"] == (cuda["toolkit"] is not None) == bool(cuda["archs"])
    # Without this the first op on a GPU would call a null pointer; it needs no GPU to be found out.
    assert cuda["torch_has_cuda"] == (cuda["compiled"] and torch.version.cuda is not None)
    assert all(re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", arch) for arch in cuda["archs"])


def test_version_is_the_installed_distributions():
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("gdext")
    except PackageNotFoundError:
        pytest.skip("gdext is importable here but not installed")
    assert gdext.__version__ == installed


def test_command_line_prints_build_info():
    printed = subprocess.run(
        [sys.executable, "-m", "gdext"], check=True, capture_output=True, text=True
    ).stdout
    assert json.loads(printed) == gdext.build_info()


def test_data_is_imported_when_used_and_other_names_are_errors():
    code = "import sys, gdext; assert 'gdext.data' not in sys.modules; gdext.data.__name__"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = gdext.nonsense


def test_the_compiler_is_not_imported():
    """It takes longer than the rest of gdext and PyTorch together; torch.compile imports it."""
    code = """
import sys, torch
before = "torch._dynamo" in sys.modules
import gdext
sys.exit(("torch._dynamo" in sys.modules) != before)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
