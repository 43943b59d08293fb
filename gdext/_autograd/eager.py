"""How the functions of ``_autograd`` are called: each mode of PyTorch needs another form of them.

A function is written in the setup_context form, which torch.compile takes, with its forward-mode
rule (jvp) beside it, which torch.compile refuses. Its setup_context returns what it saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

Apply = Callable[..., Any]


def is_transformed() -> bool:
    """Whether torch.func or forward-mode differentiation follows what is computed."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


_BATCHED: Any = torch._C._parse_dispatch_key("Batched")  # by autograd; not torch.func.vmap's


def refuse_batched_graph(*inputs: Any) -> None:
    """Raise in a backward whose gradients are batched by autograd itself and are to be
    differentiated in their turn: what a Function computes of such tensors has a graph that is lost
    once the batch is taken apart."""
    # With forward mode off this is a jvp (see with_jvp), whose results autograd asks for no graph.
    if not (torch.is_grad_enabled() and torch._C._is_fwd_grad_enabled()):
        return
    if any(isinstance(t, Tensor) and torch._C._dispatch_keys(t).has(_BATCHED) for t in inputs):
        raise RuntimeError(
            "gdext: gradients that are batched (is_grads_batched=True, vectorize=True) can not be "
            "differentiated again (create_graph=True); use torch.func (jacrev, vmap, hessian), or "
            "take them one by one"
        )


def is_differentiated() -> bool:
    """Whether what a backward computes may be differentiated in its turn."""
    return torch.is_grad_enabled() or forward_ad._current_level >= 0


def not_wanted(outputs: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    """Those that are empty, since they were not asked for."""
    return [t for t, want in zip(outputs, wanted, strict=True) if not want]


def tangent_of_constant(output: Tensor) -> Tensor | None:
    """What a jvp returns for an output that its setup_context marked as not differentiable."""
    # Of what is batched, vmap forgets the mark, and forward mode wants a tangent.
    is_batched = torch._C._functorch.is_batchedtensor(output)
    return torch.zeros_like(output) if is_batched else None


def with_jvp(function: type[Function], jvp: Apply) -> Apply:
    """What applies ``function``, whose forward-mode derivative is ``jvp``: (ctx, tangents of the
    inputs or None...) -> tangents of the outputs. Each output must get one, if only zeros, but for
    those marked as not differentiable, which must get ``tangent_of_constant``.

    All that jvp does it must leave to functions of this kind. PyTorch calls it with forward mode
    off, and so takes it from a forward mode around this one too; a function turns it on again, an
    operator would silently have no tangent.
    """
    apply, apply_transformed = function.apply, _transformed(function, jvp).apply

    # Inside a transform of torch.func that is itself compiled, PyTorch traces functions to wrong
    # numbers, or fails. So the trace ends here: the default runs the transform uncompiled, and
    # fullgraph=True raises with this reason. As a decorator, torch.compiler.disable would import
    # the compiler with gdext, which takes a second; so here are the marks that it would leave.
    def uncompiled(*inputs: Any) -> Any:
        return torch.compiler.disable(apply_transformed)(*inputs)

    vars(uncompiled).update(
        _torchdynamo_disable=True,
        _torchdynamo_disable_msg="gdext cannot be compiled inside a transform of torch.func: leave "
        "fullgraph out, and the transform runs uncompiled",
    )

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            if torch._C._are_functorch_transforms_active():
                return uncompiled(*inputs)
            return apply(*inputs)
        refuse_batched_graph(*inputs)
        return apply_transformed(*inputs)

    return call


def eager_form(name: str, forward: Apply, backward: Apply) -> Apply:
    """What applies ``forward(ctx, *inputs)`` -> y, for eager mode: the node of y is called ``name``
    + "Backward" and calls ``backward(ctx, dy or None)`` -> the gradients of the inputs.

    A layer of 8 x 64 takes less time than a call of a few Python functions: so ``forward`` writes
    what it saves to ``ctx.to_save``, which is all that ctx.save_for_backward does.
    """
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(name, (Function,), methods)
    # In place of a method that asks anew at each call which function it is to call.
    function._backward_cls.apply = backward
    apply: Apply = function.apply
    return apply


def first_output(
    function: type[Function], op: Any, jvp: Apply, apply_eager: Apply
) -> Callable[..., Tensor]:
    """What calls ``function``, whose forward is ``op``, and returns its first output; the others
    are its backward's concern.

    Applied in the setup_context form, a function's arguments go through inspect.signature at every
    call, which costs more than a small layer. So in eager mode ``apply_eager`` runs, an
    ``eager_form`` of the same function; and where nothing is to be differentiated, the op alone.
    """
    run = op._op  # what OpOverload.__call__ calls
    apply_otherwise = with_jvp(function, jvp)

    def call(*inputs: Any) -> Tensor:
        # is_transformed, but a call of it would take as long as a part of a small layer
        if (
            torch.compiler.is_compiling()
            or torch._C._are_functorch_transforms_active()
            or forward_ad._current_level >= 0
        ):
            return apply_otherwise(*inputs)[0]
        # enable_grad within inference mode gives no graph either
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            return run(*inputs)[0]
        y: Tensor = apply_eager(*inputs)
        return y

    return call


def _transformed(function: type[Function], jvp: Apply) -> Any:
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        # the same tensors for both: under vmap, ctx remembers one list of batch dimensions
        ctx.save_for_forward(*function.setup_context(ctx, inputs, output))

    methods = {"setup_context": staticmethod(setup_context), "jvp": staticmethod(jvp)}
    return type(function.__name__, (function,), methods)
