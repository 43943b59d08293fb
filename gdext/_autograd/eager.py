"""How the functions of ``_autograd`` are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def first_output(function: type[Function]) -> Callable[..., Tensor]:
    """What calls ``function`` and returns its first output; the others are its backward's concern.

    ``function`` is in the setup_context form, which torch.func needs. Applied in that form, a
    function's arguments go through inspect.signature at every call, which costs more than a small
    layer. So in eager mode the same methods run in the form whose forward takes ctx.
    """

    def forward(ctx: Any, *inputs: Any) -> Tensor:
        outputs = function.forward(*inputs)
        function.setup_context(ctx, inputs, outputs)
        return outputs[0]

    eager: Any = type(
        function.__name__,  # grad_fn is named after it
        (Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(function.backward)},
    )
    apply_eager, apply = eager.apply, function.apply

    def call(*inputs: Any) -> Tensor:
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return apply(*inputs)[0]
        return apply_eager(*inputs)

    return call
