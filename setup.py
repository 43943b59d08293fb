"""Build gdext._C, one shared library for every PyTorch >= 2.11 and Python >= 3.10 of a platform.

    pip install --no-build-isolation .

Environment: GDEXT_CUDA=auto|0|1, CUDA_HOME, TORCH_CUDA_ARCH_LIST, CXX, MAX_JOBS (see
CONTRIBUTING.md).
"""

import os
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if int(setuptools.__version__.split(".")[0]) < 77:
    raise SystemExit(
        f"gdext: setuptools 77 or newer is needed to build, found {setuptools.__version__}.\n"
        'Upgrade it: pip install --upgrade "setuptools>=77"'
    )

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))

from build_support.environment import (  # noqa: E402
    BuildError,
    decide_cuda,
    find_compiler,
    find_ninja,
    find_torch,
)
from build_support.ninja_build import Plan, build, sources  # noqa: E402
from build_support.toolkit import ToolkitError, choose_archs  # noqa: E402


class BuildWithNinja(build_ext):
    """build_ext whose compilation is build_support.ninja_build's."""

    def build_extension(self, ext: Extension) -> None:
        try:
            built = self._build()
        except (BuildError, ToolkitError) as error:
            raise SystemExit(f"gdext: {error}") from None
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Replaced, never written into: a process that has the old file mapped must not see it
        # change.
        unfinished = target.with_suffix(".new")
        self.copy_file(str(built), str(unfinished))
        os.replace(unfinished, target)

    def _build(self) -> Path:
        if sysconfig.get_config_var("Py_GIL_DISABLED"):
            raise BuildError(
                "free-threaded Python has no stable ABI (abi3), which gdext is built on. "
                "Use the ordinary build of Python"
            )
        torch = find_torch()
        cxx = find_compiler(os.environ)
        ninja = find_ninja(os.environ)
        toolkit, notes = decide_cuda(os.environ, torch)
        for note in notes:
            print(f"gdext: {note}", file=sys.stderr)
        archs: tuple[str, ...] = ()
        if toolkit:
            archs = choose_archs(
                os.environ.get("TORCH_CUDA_ARCH_LIST", ""), toolkit.supported_archs
            )
        cuda = f"CUDA {toolkit.version} for {' '.join(archs)}" if toolkit else "CPU alone"
        print(f"gdext: building against PyTorch {torch.version}, {cuda}", flush=True)
        version = self.distribution.get_version()
        return build(Plan(version, ROOT, torch, cxx, toolkit, archs), ninja)


def extension() -> Extension:
    headers = [path for kind in ("h", "inl", "cuh") for path in ROOT.glob(f"csrc/**/*.{kind}")]
    support = ROOT.glob("scripts/build_support/*.py")
    return Extension(
        "gdext._C",
        sources=[str(path) for path in sources(ROOT, cuda=True)],
        depends=sorted(str(path.relative_to(ROOT)) for path in [*headers, *support]),
        py_limited_api=True,
    )


setup(
    ext_modules=[extension()],
    cmdclass={"build_ext": BuildWithNinja},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
