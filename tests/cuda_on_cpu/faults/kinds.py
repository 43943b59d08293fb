"""What a fault is, and what must find it."""

from __future__ import annotations

from dataclasses import dataclass

from native_build import Fault


@dataclass(frozen=True)
class OpFault(Fault):
    """In csrc. `op` must fail on `dtype`, saying `says`. `unit`: the .cu that has it, if not the
    op's own. `seed`: of a schedule that shows it."""

    op: str
    says: str = "FAIL {op} "
    unit: str | None = None
    seed: int = 1
    dtype: str = "f32"


@dataclass(frozen=True)
class PrimitiveFault(Fault):
    """In primitives/. One of its tests must fail, saying `says`, whatever the seed.

    Where the schedule decides whether the numbers or the emulation's own checks show it first,
    `says` is what both name.
    """

    says: str
