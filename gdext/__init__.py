"""Train multi-layer perceptrons in PyTorch by gradient descent, with hand-written C++ and CUDA
kernels.

``gdext.functional``, ``gdext.nn`` and ``gdext.optim`` mirror their namesakes in torch;
``gdext.FusedTrainer`` takes many steps of a whole MLP in one native call;
``gdext.descent`` and ``gdext.gradients`` show gradient descent and the ways to a gradient at work;
``gdext.data`` gives MNIST and its siblings as tensors; ``gdext.build_info()`` says what is compiled
and in use.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from gdext import _load, descent, functional, gradients, nn, optim
from gdext._load import build_info
from gdext.fused import FusedTrainer

if TYPE_CHECKING:
    from gdext import data

__all__ = [
    "FusedTrainer",
    "build_info",
    "data",
    "descent",
    "functional",
    "gradients",
    "nn",
    "optim",
]

__version__: str = _load.build_info()["version"]


def __getattr__(name: str) -> ModuleType:
    # data is imported when first used: it needs torchvision, which training code may not have.
    if name == "data":
        return importlib.import_module("gdext.data")
    raise AttributeError(f"module 'gdext' has no attribute {name!r}")
