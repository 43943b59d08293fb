"""Import PyTorch, check its version, load the compiled ops, and say what they were built for."""

from __future__ import annotations

import json
import re
from typing import TypedDict

OLDEST_TORCH = (2, 11)
INSTALL_TORCH = 'Install it: pip install "torch>=2.11"'
BUILD = (
    "In gdext's source folder run: pip install --no-build-isolation -e . "
    "(needs a C++ compiler; add --force-reinstall --no-deps to replace an older build). "
    "If gdext is installed, start Python outside that folder"
)

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError(
        f"gdext needs PyTorch 2.11 or newer, none is installed. {INSTALL_TORCH}"
    ) from None

if tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2]) < OLDEST_TORCH:
    raise ImportError(
        f"gdext needs PyTorch 2.11 or newer, found {torch.__version__}. {INSTALL_TORCH}"
    )

try:
    import gdext._C  # noqa: F401  (loading the library registers torch.ops.gdext)
except ModuleNotFoundError as error:
    if error.name != "gdext._C":
        raise
    raise ImportError(f"gdext's compiled part, gdext._C, is not built. {BUILD}") from None
except ImportError as error:
    raise ImportError(
        f"gdext's compiled part does not load under PyTorch {torch.__version__}: {error}. {BUILD}"
    ) from error


class TorchInfo(TypedDict):
    """PyTorch's versions: the one compiled against, and the one running."""

    built_with: str
    running: str


class CpuInfo(TypedDict):
    """CPU instruction sets: those compiled in, and the one in use (see GDEXT_CPU_ISA)."""

    compiled: list[str]
    in_use: str


class CudaInfo(TypedDict):
    """Whether the CUDA kernels are compiled in, with which toolkit, and for which architectures."""

    compiled: bool
    toolkit: str | None
    archs: list[str]
    torch_has_cuda: bool


class BuildInfo(TypedDict):
    """What build_info() returns."""

    version: str
    compiler: str
    torch: TorchInfo
    cpu: CpuInfo
    cuda: CudaInfo


def build_info() -> BuildInfo:
    """What this installation of gdext was built with and what it uses here, ready for json.dumps.

    Returns:
        ``version`` of gdext; ``compiler`` of its C++; ``torch``: versions ``built_with`` and
        ``running``; ``cpu``: instruction sets ``compiled``, and the one ``in_use``; ``cuda``:
        ``compiled`` or not, ``toolkit`` version (None without CUDA), ``archs`` in
        TORCH_CUDA_ARCH_LIST's notation, e.g. ``["9.0", "12.0+PTX"]``, ``torch_has_cuda``: the
        kernels are compiled in and this PyTorch, being a CUDA build, can call them (whether there
        is a GPU is torch.cuda's to say).

    Example::

        >>> info = gdext.build_info()
        >>> info["version"] == gdext.__version__
        True
        >>> info["cpu"]["in_use"] in info["cpu"]["compiled"]
        True
    """
    config = json.loads(torch.ops.gdext._build_config())
    return {
        "version": config["version"],
        "compiler": config["compiler"],
        "torch": {"built_with": config["built_with_torch"], "running": torch.__version__},
        "cpu": {
            "compiled": torch.ops.gdext._cpu_isas().split(","),
            "in_use": torch.ops.gdext._cpu_isa_in_use(),
        },
        "cuda": {
            "compiled": bool(config["cuda_version"]),
            "toolkit": config["cuda_version"] or None,
            "archs": config["cuda_archs"].split(),
            "torch_has_cuda": config["torch_has_cuda"],
        },
    }
