"""How the functions of ``_autograd`` are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad


def first_output(function: type[Function], op: Any) -> Callable[..., Tensor]:
    """What calls ``function`` and returns its first output; the others are its backward's concern.

    ``function`` is in the setup_context form, which torch.func needs, and its forward is ``op``.
    Applied in that form, a function's arguments go through inspect.signature at every call, which
    costs more than a small layer. So in eager mode the same methods run in the form whose forward
    takes ctx; and where nothing is to be differentiated, the op runs without them.
    """
    run = op._op  # what OpOverload.__call__ calls
    setup_context = function.setup_context

    def forward(ctx: Any, *inputs: Any) -> Tensor:
        outputs = run(*inputs)
        setup_context(ctx, inputs, outputs)
        return outputs[0]

    eager: Any = type(
        function.__name__,  # grad_fn is named after it
        (Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(function.backward)},
    )
    # In place of a method that asks anew at each call which function it is to call.
    eager._backward_cls.apply = function.backward
    apply_eager, apply = eager.apply, function.apply

    def call(*inputs: Any) -> Tensor:
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return apply(*inputs)[0]
        if not torch.is_grad_enabled() and forward_ad._current_level < 0:
            return run(*inputs)[0]
        return apply_eager(*inputs)

    return call
