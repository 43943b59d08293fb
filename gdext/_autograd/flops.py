"""What torch.utils.flop_counter.FlopCounterMode counts of the ops: two operations for each
multiply-add of a matrix product, none for the rest, as it counts for PyTorch's own.

Shapes stand in the tensors' places. Letters: B product of the leading dimensions, I in_features,
O out_features.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

Shape = Sequence[int]


def _linear_flop(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """2 B I O."""
    return 2 * prod(x) * weight[0]


def _linear_backward_flop(
    dy: Shape,
    saved: Shape | None,
    x: Shape | None,
    weight: Shape | None,
    activation: int,
    wanted: list[bool],
    **_: Any,
) -> int:
    """2 B I O for dx and 2 B I O for dw."""
    in_features = weight[1] if wanted[0] and weight else x[-1] if wanted[1] and x else 0
    return 2 * prod(dy) * in_features * (wanted[0] + wanted[1])


register_flop_formula(torch.ops.gdext.linear)(_linear_flop)
register_flop_formula(torch.ops.gdext.linear_backward)(_linear_backward_flop)
