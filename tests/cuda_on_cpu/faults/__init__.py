"""Faults for tests/test_cuda_on_cpu.py to plant: in the ops, and in the kernels of primitives/."""

from .gemm import GEMM_FAULTS
from .kinds import FAULT_FLAGS, Fault, plant, switch_on
from .ops import OP_FAULTS as _OF_OPS
from .ops import READ_BEYOND
from .primitives import PRIMITIVE_FAULTS

OP_FAULTS = {**_OF_OPS, **GEMM_FAULTS}

__all__ = [
    "FAULT_FLAGS",
    "OP_FAULTS",
    "PRIMITIVE_FAULTS",
    "READ_BEYOND",
    "Fault",
    "plant",
    "switch_on",
]
