"""linear, mse_loss and cross_entropy as torch.nn.functional has them, on gdext's kernels.

Arguments, defaults, shapes and error types are torch.nn.functional's; ``linear`` takes an
activation besides. Dtypes: float32, float64, bfloat16 and float16 (the last two accumulate in
float32), on CPU and CUDA; anything else raises. Under torch.autocast, ``linear`` runs in its dtype
and the losses in float32, as torch.nn.functional's. All are differentiable twice.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction
from torch.overrides import handle_torch_function, has_torch_function

import gdext._autograd.batching_linear
import gdext._autograd.batching_losses
import gdext._autograd.flops  # noqa: F401  (registers what they count as)
from gdext._autograd.cross_entropy import cross_entropy as _cross_entropy
from gdext._autograd.eager import is_transformed
from gdext._autograd.linear import linear as _linear
from gdext._autograd.linear_ops import ACTIVATIONS, IDENTITY
from gdext._autograd.mse import mse as _mse

__all__ = ["ACTIVATIONS", "cross_entropy", "linear", "mse_loss"]

_ACTIVATION_NUMBER: dict[str | None, int] = {name: i for i, name in enumerate(ACTIVATIONS)}
_ACTIVATION_NUMBER[None] = IDENTITY


def activation_number(activation: str | None) -> int:
    """The number that the ops know an activation by.

    Raises:
        ValueError: ``activation`` is none of ``ACTIVATIONS`` and not None.
    """
    try:
        return _ACTIVATION_NUMBER[activation]
    except (KeyError, TypeError):
        raise ValueError(
            f"activation: wanted None or one of {', '.join(ACTIVATIONS)}, got {activation!r}"
        ) from None


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    r"""y = f(x w^T + b), in one kernel forward and one pass backward.

    As ``torch.nn.functional.linear``, with the activation f that follows it. Its gradients, with
    dz = dy f'(z) and z = x w^T + b, are dx = dz w, dw = dz^T x and db = sum of dz.

    Args:
        input: x: any leading dimensions, any strides.
        weight: w.
        bias: b, or None.
        activation: f, one of ``ACTIVATIONS``; None is "identity". Each has PyTorch's default
            parameters (leaky_relu: slope 0.01; elu: alpha 1; softplus: beta 1, threshold 20);
            "scaled_tanh" is 1.7159 tanh(2/3 z) (LeCun et al., "Efficient BackProp", 1998).

    Shape:
        input: ``[*, I]``, I in_features.
        weight: ``[O, I]``, O out_features, or ``[I]`` (then without bias).
        bias: ``[O]``, or one that broadcasts to it.
        output: ``[*, O]`` (``[*]`` for a weight of shape ``[I]``).

    Returns:
        y, in the dtype of ``input``.

    Raises:
        RuntimeError: shapes do not fit, or dtypes or devices differ or have no kernel.
        TypeError: ``input``, ``weight`` or ``bias`` is no tensor.
        ValueError: ``activation`` is not known.

    Source: csrc/contract/linear.h; the gradients are those of Rumelhart, Hinton and Williams,
    "Learning representations by back-propagating errors", 1986.

    Example::

        >>> x = torch.tensor([[1.0, -2.0]])
        >>> w = torch.tensor([[1.0, 1.0], [2.0, 0.0]], requires_grad=True)
        >>> y = gdext.functional.linear(x, w, activation="relu")
        >>> y.tolist()
        [[0.0, 2.0]]
        >>> y.sum().backward()
        >>> w.grad.tolist()
        [[0.0, 0.0], [1.0, -2.0]]
    """
    number = activation_number(activation)
    if not (
        isinstance(input, Tensor)
        and isinstance(weight, Tensor)
        and (bias is None or isinstance(bias, Tensor))
    ):
        tensors = {"input": input, "weight": weight, "bias": bias}
        if has_torch_function(tuple(tensors.values())):  # torch.fx's Proxy, for one
            y: Tensor = handle_torch_function(
                linear, tuple(tensors.values()), **tensors, activation=activation
            )
            return y
        _refuse_other_than_tensors("linear", **tensors)
    if torch._C._is_any_autocast_enabled() and _is_autocast(input):
        dtype = torch.get_autocast_dtype(input.device.type)
        input, weight = _autocast(dtype, input), _autocast(dtype, weight)
        bias = None if bias is None else _autocast(dtype, bias)
    want_z = torch.is_grad_enabled() or is_transformed()
    if weight.dim() == 1:
        if bias is not None:
            raise RuntimeError(
                "linear(): bias: wanted None with a 1-dimensional weight, "
                f"got shape {list(bias.shape)}"
            )
        return _linear(input, weight.unsqueeze(0), None, number, want_z).squeeze(-1)
    if bias is not None and (bias.dim() != 1 or bias.numel() == 1):
        bias = _row_of(bias, weight)
    return _linear(input, weight, bias, number, want_z)


def _refuse_other_than_tensors(function: str, **arguments: Any) -> None:
    for name, got in arguments.items():
        if not isinstance(got, Tensor) and not (name == "bias" and got is None):
            raise TypeError(f"{function}(): {name}: wanted a Tensor, got {type(got).__name__}")


def _row_of(bias: Tensor, weight: Tensor) -> Tensor:
    """A bias of shape [], [1] or [1, ..., O] as [O], if it is one; else as it is."""
    if bias.numel() == (bias.shape[-1] if bias.dim() else 1):
        bias = bias.reshape(-1)
    if bias.dim() == 1 and len(bias) == 1 and weight.dim() == 2:
        bias = bias.expand(weight.shape[0])
    return bias


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    r"""The mean squared error C = 1/N sum_i w_i (x_i - t_i)^2.

    Args:
        input: x, any shape. Shapes that differ are broadcast, with a warning; dtypes that differ
            are promoted.
        target: t, of ``input``'s shape. Differentiable, as ``input`` is.
        size_average, reduce: deprecated in torch; see ``reduction``.
        reduction: "none": the terms themselves; "sum": their sum; "mean": their sum over N,
            the number of terms (the sum of ``weight`` where it is given).
        weight: w, of ``input``'s shape; not differentiable. None: ones.

    Shape:
        input, target, weight: ``[*]``, any and the same.
        output: that of ``input`` (as broadcast) for "none", else ``[]``.

    Returns:
        C, in the dtype of ``input`` (as promoted).

    Raises:
        RuntimeError: shapes do not broadcast, devices differ, or ``weight`` requires a gradient.
        NotImplementedError: no kernel for the dtype.
        ValueError: ``reduction`` is not known, or ``weight`` has not the size of ``input``.

    Source: csrc/contract/mse.h; ``torch.nn.functional.mse_loss``.

    Example::

        >>> x = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
        >>> loss = gdext.functional.mse_loss(x, torch.tensor([1.0, 1.0, 2.0]), reduction="sum")
        >>> loss.item()
        5.0
        >>> loss.backward()
        >>> x.grad.tolist()
        [0.0, 2.0, 4.0]
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)):
        given = (input, target, weight)
        if has_torch_function(given):  # torch.fx's Proxy, for one
            loss: Tensor = handle_torch_function(
                mse_loss, given, input, target, reduction=reduction, weight=weight
            )
            return loss
    same_size = target.size() == input.size()
    if not same_size:
        warnings.warn(
            f"mse_loss: target has size {list(target.shape)}, input {list(input.shape)}: both are "
            "broadcast, which is seldom what is meant. Give them the same size.",
            stacklevel=2,
        )
    number = _reduction.get_enum(reduction)
    if weight is not None:
        _check_constant_weight("mse_loss", weight)
        if weight.size() != input.size():
            raise ValueError(
                f"mse_loss: weight: wanted the size of input, {list(input.shape)}, "
                f"got {list(weight.shape)}"
            )
    tensors = [input, target] if weight is None else [input, target, weight]
    if _is_autocast(input):
        tensors = [_autocast(torch.float32, t) for t in tensors]
    if not same_size:
        tensors = list(torch.broadcast_tensors(*tensors))
    x, t, *w = _promoted(tensors)
    if not x.dtype.is_floating_point:
        raise NotImplementedError(f"mse_loss: input: wanted a floating dtype, got {x.dtype}")
    return _mse(x, t, w[0] if w else None, number)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""The cross entropy between softmax(input) and target, C = -sum_c q_c log p_c for each sample.

    q is the target distribution, times ``weight``, smoothed by e = ``label_smoothing``:
    q_c = w_c ((1 - e) t_c + e / C). Computed from shifted logits, so that logits of 1e4 are no
    trouble.

    With p = softmax(x), its gradient with respect to the logits is dC/dx_c = p_c sum_k q_k - q_c.

    Args:
        input: logits x.
        target: class indices (int64 or uint8), or class probabilities t, floating; probabilities
            are differentiable.
        weight: w, one factor per class; not differentiable. None: ones.
        size_average, reduce: deprecated in torch; see ``reduction``.
        ignore_index: samples with this class index count neither in the loss nor in the mean.
        reduction: "none": the samples' losses; "sum": their sum; "mean": their sum over the
            sum of the weights of the samples' classes (class indices) or over their number
            (probabilities).
        label_smoothing: e, from 0 to 1.

    Shape:
        input: ``[C]``, ``[N, C]`` or ``[N, C, d1, ...]``: N samples, C classes.
        target: class indices: ``[]``, ``[N]`` or ``[N, d1, ...]``; probabilities: as ``input``.
        weight: ``[C]``.
        output: that of class indices for "none", else ``[]``.

    Returns:
        C, in the dtype of ``input``. The mean over no sample is NaN.

    Raises:
        IndexError: a class index is out of bounds (on CUDA the kernel traps, as PyTorch's does).
        RuntimeError: shapes, dtypes or devices do not fit, or ``weight`` requires a gradient.
        TypeError: ``input`` or ``target`` is no tensor.
        ValueError: batch sizes differ, or ``reduction`` is not known.

    Source: csrc/contract/cross_entropy.h; label smoothing: Szegedy et al., "Rethinking the
    Inception Architecture for Computer Vision", 2016.

    Example::

        >>> logits = torch.zeros(2, 4, requires_grad=True)
        >>> loss = gdext.functional.cross_entropy(logits, torch.tensor([0, 3]))
        >>> print(f"{loss.item():.4f}")  # log 4
        1.3863
        >>> loss.backward()
        >>> logits.grad[0].tolist()
        [-0.375, 0.125, 0.125, 0.125]
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)):
        given = (input, target, weight)
        if has_torch_function(given):  # torch.fx's Proxy, for one
            loss: Tensor = handle_torch_function(
                cross_entropy,
                given,
                input,
                target,
                weight,
                ignore_index=ignore_index,
                reduction=reduction,
                label_smoothing=label_smoothing,
            )
            return loss
        _refuse_other_than_tensors("cross_entropy", input=input, target=target)
    number = _reduction.get_enum(reduction)
    if weight is not None:
        _check_constant_weight("cross_entropy", weight)
    if _is_autocast(input):
        input, target = _autocast(torch.float32, input), _autocast(torch.float32, target)
        weight = None if weight is None else _autocast(torch.float32, weight)
    dtype, dim = target.dtype, input.dim()
    if dtype in (torch.int64, torch.uint8):
        if dtype is torch.uint8:
            target = target.long()
        if dim > 1 and target.dim() > 0 and input.size(0) != target.size(0):
            raise ValueError(
                f"Expected input batch_size ({input.size(0)}) to match target batch_size "
                f"({target.size(0)})."
            )
        if dim == 1 and target.shape == (1,):
            target = target[0]
    elif dtype.is_floating_point:
        if ignore_index >= 0:
            raise RuntimeError(
                "cross_entropy: ignore_index is not supported for floating point target "
                f"(class probabilities), got ignore_index={ignore_index}"
            )
        input, target, *promoted = _promoted(
            [input, target] if weight is None else [input, target, weight]
        )
        weight = promoted[0] if promoted else None
    else:
        raise RuntimeError(
            "cross_entropy: target: wanted class indices (int64 or uint8) or class probabilities "
            f"(the dtype of input), got {target.dtype}"
        )
    return _cross_entropy(input, target, weight, number, ignore_index, label_smoothing)


def _is_autocast(input: Tensor) -> bool:
    if not torch._C._is_any_autocast_enabled():
        return False
    device = input.device.type
    return device in ("cpu", "cuda") and torch.is_autocast_enabled(device)


def _autocast(dtype: torch.dtype, t: Tensor) -> Tensor:
    """What torch.autocast makes of the argument of an op that runs in ``dtype``."""
    return t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t


def _check_constant_weight(loss: str, weight: Tensor) -> None:
    if weight.requires_grad:
        raise RuntimeError(
            f"{loss}: weight: wanted a tensor without requires_grad, since gdext has no gradient "
            "for it; got one with. Use weight.detach()"
        )


def _promoted(tensors: list[Tensor]) -> list[Tensor]:
    """All of them in the dtype that arithmetic between them would have."""
    dtype, differ = tensors[0].dtype, False
    for t in tensors:
        if t.dtype != dtype:
            dtype, differ = torch.promote_types(dtype, t.dtype), True
    return [t.to(dtype) for t in tensors] if differ else tensors
