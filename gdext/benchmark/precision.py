"""Precisions that a network is trained in: what its numbers are, and how products are taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


class Precision(NamedTuple):
    """dtype: of parameters, inputs and targets; matmul, jax: the precision of products of float32,
    by PyTorch's and JAX's names.

    tolerance, tolerance_of_turn: how far from torch eager's parameters a contestant's may end
    (steps.py).
    """

    dtype: torch.dtype
    matmul: str
    jax: str
    tolerance: float
    tolerance_of_turn: float


PRECISIONS = {
    # Another order of summation makes 1e-5, and up to 1e-3 where a sum comes out on the other side
    # of a ReLU's zero for one sample, while a learning rate wrong by 1% makes 0.9%, and a step left
    # out more. Over a whole turn of thousands of steps such differences grow (to 0.6%), so that
    # only a good part of the steps left out can still be told from them.
    "float32": Precision(torch.float32, "highest", "highest", 0.004, 0.1),
    # Operands rounded to 10 bits: those rounded to nearest and those cut off end up to 5% apart
    # (simulated on the CPU, 8 to 128 steps).
    "tf32": Precision(torch.float32, "high", "tensorfloat32", 0.1, 0.3),
    # Most updates are smaller than the distance of two numbers and get lost, or are as large as it:
    # gdext ends up to 25% from PyTorch, and JAX 47%, half of the steps 70% or more.
    "bf16": Precision(torch.bfloat16, "highest", "highest", 0.6, 0.6),
}


@contextmanager
def in_force(name: str) -> Iterator[None]:
    """PyTorch's setting for products of float32, which gdext heeds too; as it was, afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(PRECISIONS[name].matmul)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
