"""Where differentiation ends: every function of gdext can be differentiated twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from torch import Tensor
from torch.autograd import Function

from gdext._autograd.eager import with_jvp


class BackwardOfBackward(Function):
    """(compute, args...) -> compute(*args), connected to its arguments, so that a third derivative
    raises, in reverse mode and in forward mode.

    torch.autograd.function.once_differentiable is no help here: the node that it raises from hangs
    on nothing, so torch.autograd.grad(second_derivative, x) passes it by and leaves its part out.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        compute: Callable[..., tuple[Tensor | None, ...]], *args: Any
    ) -> tuple[Tensor | None, ...]:
        return compute(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> Any:
        ctx.set_materialize_grads(False)
        return ()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> NoReturn:
        raise RuntimeError(
            "gdext's functions can be differentiated twice, not a third time: use those of "
            "torch.nn.functional where you need third derivatives"
        )


last_derivative = with_jvp(BackwardOfBackward, BackwardOfBackward.backward)
