"""What the fake kernels check. They also run when only some arguments are on the meta device, where
without this check they would return a tensor without data for arguments that have some."""

from __future__ import annotations

from torch import Tensor


def check_devices(input: Tensor, **others: Tensor | None) -> None:
    """Raise RuntimeError unless ``others`` are on the device of ``input``."""
    for name, other in others.items():
        if other is not None and other.device != input.device:
            raise RuntimeError(
                f"{name}: wanted device {input.device} (that of input), got {other.device}"
            )
