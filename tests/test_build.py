"""setup.py's parts: finding its tools and building only what has changed.

Planted faults stand in for broken machines: fake compilers and PyTorch folders, missing packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import build_in_place  # noqa: E402
from build_support import environment, ninja_build  # noqa: E402
from build_support.environment import BuildError  # noqa: E402
from build_support.toolkit import CudaToolkit  # noqa: E402


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("torch_version", "message"),
    [
        (None, "2.11 or newer must be installed"),
        ("2.10.1+cpu", "found 2.10.1"),
        ("2.11.0", "has no C++ headers"),
    ],
)
def test_torch_that_cannot_be_built_against(tmp_path, monkeypatch, torch_version, message):
    spec = None
    if torch_version:
        (tmp_path / "version.py").write_text(f"__version__ = {torch_version!r}\ncuda = None\n")
        spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(BuildError) as error:
        environment.find_torch()
    assert message in str(error.value)


def test_torch_facts_agree_with_the_imported_torch():
    import torch

    found = environment.find_torch()
    assert (found.version, found.cuda_version) == (torch.__version__, torch.version.cuda)


@pytest.mark.parametrize("name", ["c++", "g++", "clang++"])
def test_compiler_on_path(tmp_path, name):
    script(tmp_path / name, "#!/bin/sh\nexit 0\n")
    assert environment.find_compiler({"PATH": str(tmp_path)}) == [name]


def test_compiler_from_cxx_with_arguments(tmp_path):
    script(tmp_path / "ccache", "#!/bin/sh\nexit 0\n")
    environ = {"PATH": str(tmp_path), "CXX": "ccache g++"}
    assert environment.find_compiler(environ) == ["ccache", "g++"]


def test_compiler_missing_or_too_old(tmp_path):
    for environ, message in (
        ({"PATH": str(tmp_path)}, "no C++ compiler was found"),
        ({"PATH": str(tmp_path), "CXX": "icpc -fast"}, "CXX=icpc -fast: no such program"),
    ):
        with pytest.raises(BuildError) as error:
            environment.find_compiler(environ)
        assert message in str(error.value)
        assert "apt install g++" in str(error.value)
    script(tmp_path / "g++", "#!/bin/sh\necho 'unrecognized option -std=c++20'\nexit 1\n")
    with pytest.raises(BuildError, match=r"cannot compile C\+\+20: unrecognized option"):
        environment.find_compiler({"PATH": str(tmp_path)})


def test_ninja_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(environment.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(BuildError, match="pip install ninja"):
        environment.find_ninja({"PATH": str(tmp_path)})
    program = script(tmp_path / "ninja", "#!/bin/sh\n")
    assert environment.find_ninja({"PATH": ""}) == program


@pytest.fixture
def small_plan(tmp_path):
    """A project of two sources and a header, in a folder whose name needs quoting."""
    root = tmp_path / "a $place with spaces"
    for name, text in {
        "cpu/one.cpp": '#include "cpu/one.h"\nint one() { return ONE; }\n',
        "cpu/one.h": "#define ONE 1\n",
        "torch/version.cpp": "const char* version() { return GDEXT_VERSION GDEXT_CUDA_ARCHS; }\n",
    }.items():
        (root / "csrc" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "csrc" / name).write_text(text)
    torch = environment.find_torch()
    cxx = environment.find_compiler(os.environ)
    return ninja_build.Plan("1.2.3", root, torch, cxx, toolkit=None, archs=())


def test_launch_errors_can_name_the_architectures(small_plan, tmp_path):
    cuda = CudaToolkit(tmp_path / "nvcc", tmp_path, tmp_path, "13.0", ("9.0", "12.0"))
    plan = ninja_build.Plan(**{**vars(small_plan), "toolkit": cuda, "archs": ("9.0", "12.0+PTX")})
    flag = '-DGDEXT_CUDA_ARCHS="9.0 12.0+PTX"'
    assert flag in ninja_build.nvcc_flags(plan) and flag in ninja_build.config_flags(plan)


def compiled(plan: ninja_build.Plan, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The sources that a build compiles."""
    ninja_build.build(plan, environment.find_ninja(os.environ))
    lines = [line.rstrip("'") for line in capfd.readouterr().out.splitlines()]
    return sorted(line.rsplit("/", 1)[1] for line in lines if line.endswith(".cpp"))


def test_only_what_changed_is_compiled(small_plan, capfd):
    assert compiled(small_plan, capfd) == ["one.cpp", "version.cpp"]
    assert compiled(small_plan, capfd) == []
    (small_plan.root / "csrc/cpu/one.h").write_text("#define ONE 2\n")
    assert compiled(small_plan, capfd) == ["one.cpp"]
    newer = ninja_build.Plan(**{**vars(small_plan), "version": "1.2.4"})
    assert compiled(newer, capfd) == ["version.cpp"]


def test_compile_error_is_one_message(small_plan):
    (small_plan.root / "csrc/cpu/one.cpp").write_text("int one( {")
    with pytest.raises(BuildError, match="compilation failed"):
        ninja_build.build(small_plan, environment.find_ninja(os.environ))


def test_without_ninja(small_plan):
    built = build_in_place.build_without_ninja(small_plan, jobs=2)
    assert built == small_plan.build_dir / "_C.abi3.so" and built.is_file()
    (small_plan.root / "csrc/cpu/one.cpp").write_text("int one( {")
    with pytest.raises(BuildError, match="compilation failed"):
        build_in_place.build_without_ninja(small_plan, jobs=2)


def test_in_place_as_setup_would():
    plan = build_in_place.make_plan()
    assert plan.root == ROOT and plan.version == version("gdext")


def run_setup(tmp_path: Path, sitecustomize: str = "", **environ: str) -> tuple[int, str]:
    """setup.py build_ext with a sitecustomize that plants a condition; its exit code and stderr."""
    (tmp_path / "sitecustomize.py").write_text(sitecustomize)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "-b", str(tmp_path), "-t", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), **environ},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("planted", "environ", "message"),
    [
        ("import sys; sys.modules['torch'] = None", {}, "PyTorch 2.11 or newer must be installed"),
        ("import setuptools; setuptools.__version__ = '65.5.0'", {}, "found 65.5.0"),
        (
            "import sysconfig; sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1",
            {},
            "free-threaded Python has no stable ABI",
        ),
        ("", {"CXX": "no-such-compiler"}, "CXX=no-such-compiler: no such program"),
        ("", {"GDEXT_CUDA": "maybe"}, 'GDEXT_CUDA must be auto, 0 or 1, got "maybe"'),
    ],
)
def test_setup_says_what_is_wrong_without_a_traceback(tmp_path, planted, environ, message):
    code, errors = run_setup(tmp_path, planted, **environ)
    assert code == 1
    assert f"gdext: {message}" in errors or message in errors
    assert "Traceback" not in errors


def test_library_needs_no_cuda_and_no_python():
    import gdext._C

    assert Path(gdext._C.__file__).name == "_C.abi3.so"
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf (binutils) is not installed")
    dynamic = subprocess.run(
        [readelf, "-d", gdext._C.__file__], check=True, capture_output=True, text=True
    ).stdout
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "NEEDED" in line]
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if "cuda" in name or "python" in name or "c10" in name]
