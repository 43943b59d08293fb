"""Linear with a fused activation, MLP, MSELoss and CrossEntropyLoss as torch.nn has them, and
convert, which puts them into a model that is already there."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from gdext import functional
from gdext._autograd.layers import is_eager, joined_layers

__all__ = ["MLP", "CrossEntropyLoss", "Linear", "MSELoss", "convert"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Linear(nn.Linear):
    r"""y = f(x w^T + b) on ``[*, in_features]``, see :func:`gdext.functional.linear`.

    Parameters, their names, shapes and initialisation are torch.nn.Linear's: a state_dict goes both
    ways, and the same seed gives the same layer.

    Args:
        in_features: I, size of the last dimension of x.
        out_features: O, size of the last dimension of y.
        bias: whether there is a b.
        activation: f, one of ``gdext.functional.ACTIVATIONS``, or None.
        device, dtype: of the parameters.

    Shape:
        input: ``[*, I]``.
        output: ``[*, O]``.

    Raises:
        ValueError: ``activation`` is not known.

    Source: initialisation: torch.nn.Linear's, uniform within 1/sqrt(I).

    Example::

        >>> layer = gdext.nn.Linear(8, 64, activation="tanh")
        >>> layer(torch.randn(32, 8)).shape
        torch.Size([32, 64])
        >>> layer
        Linear(in_features=8, out_features=64, bias=True, activation='tanh')
    """

    activation: str | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        functional.activation_number(activation)  # first: nothing is built for a bad name
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.activation = activation

    if TYPE_CHECKING:  # torch.nn.Module's returns Any

        def __call__(self, input: Tensor) -> Tensor: ...

    def forward(self, input: Tensor) -> Tensor:
        # Spares Module.__getattr__, which takes long, where there is something to spare.
        weight: Tensor | None = self._parameters.get("weight")
        bias: Tensor | None = self._parameters.get("bias")
        if weight is None or bias is None or "weight" in self.__dict__ or "bias" in self.__dict__:
            weight, bias = self.weight, self.bias  # no bias, or made from other parameters
        return functional.linear(input, weight, bias, self.activation)

    def extra_repr(self) -> str:
        activation = "" if self.activation is None else f", activation={self.activation!r}"
        return super().extra_repr() + activation


class MLP(nn.Sequential):
    r"""A multi-layer perceptron: ``len(sizes) - 1`` layers :class:`Linear`, numbered from 0.

    Args:
        sizes: in_features of the first layer, then out_features of each; at least two numbers.
        activation: of every layer but the last.
        output_activation: of the last layer.
        bias: whether the layers have one.
        device, dtype: of the parameters.

    Shape:
        input: ``[*, sizes[0]]``.
        output: ``[*, sizes[-1]]``.

    Raises:
        ValueError: fewer than two sizes, or one that is no positive integer; unknown activation.

    Source: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors",
    1986.

    Example::

        >>> model = gdext.nn.MLP([784, 512, 10], activation="relu")
        >>> model(torch.randn(32, 784)).shape
        torch.Size([32, 10])
        >>> [name for name, _ in model.named_parameters()]
        ['0.weight', '0.bias', '1.weight', '1.bias']
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str | None = "relu",
        output_activation: str | None = None,
        bias: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        for name in (activation, output_activation):
            functional.activation_number(name)
        sizes = list(sizes)
        if len(sizes) < 2 or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise ValueError(f"sizes: wanted two or more positive integers, got {sizes}")
        hidden = [activation] * (len(sizes) - 2)
        super().__init__(
            *(
                Linear(i, o, bias, f, device=device, dtype=dtype)
                for i, o, f in zip(sizes[:-1], sizes[1:], [*hidden, output_activation], strict=True)
            )
        )

    if TYPE_CHECKING:  # torch.nn.Module's returns Any

        def __call__(self, input: Tensor) -> Tensor: ...

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Tensor) and is_eager() and not _has_any_global_hook():
            activations: list[int] = []
            params: list[Tensor | None] = []
            for layer in self._modules.values():
                if type(layer) is not Linear or has_hooks(layer) or not has_plain_parts(layer):
                    break
                activations.append(functional.activation_number(layer.activation))
                params += layer._parameters["weight"], layer._parameters.get("bias")
            else:
                if activations:
                    return joined_layers(input, activations, params)
        return cast(Tensor, super().forward(input))

    def __getitem__(self, idx: Any) -> Any:
        # Sequential builds a slice as type(self)(layers), but MLP is built from sizes.
        if isinstance(idx, slice):
            return nn.Sequential(OrderedDict(list(self._modules.items())[idx]))
        return super().__getitem__(idx)


class MSELoss(nn.MSELoss):
    """The mean squared error, torch.nn.MSELoss on :func:`gdext.functional.mse_loss`, C = 1/N sum_i
    (x_i - t_i)^2.

    Args:
        size_average, reduce: deprecated in torch; see ``reduction``.
        reduction: "mean", "sum" or "none".

    Shape:
        input, target: ``[*]``, any and the same.
        output: that of ``input`` for "none", else ``[]``.

    Raises:
        As :func:`gdext.functional.mse_loss`, when called.

    Source: torch.nn.MSELoss.

    Example::

        >>> gdext.nn.MSELoss()(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])).item()
        2.0
    """

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(input, target, reduction=self.reduction)


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """The cross entropy, torch.nn.CrossEntropyLoss on :func:`gdext.functional.cross_entropy`, which
    has the formula.

    Args:
        weight: one factor per class, or None.
        size_average, reduce: deprecated in torch; see ``reduction``.
        ignore_index: samples with this class index do not count.
        reduction: "mean", "sum" or "none".
        label_smoothing: from 0 to 1.

    Shape:
        input: ``[C]``, ``[N, C]`` or ``[N, C, d1, ...]``: N samples, C classes.
        target: class indices: ``[]``, ``[N]`` or ``[N, d1, ...]``; probabilities: as ``input``.
        output: that of class indices for "none", else ``[]``.

    Raises:
        As :func:`gdext.functional.cross_entropy`, when called.

    Source: torch.nn.CrossEntropyLoss.

    Example::

        >>> loss_fn = gdext.nn.CrossEntropyLoss(label_smoothing=0.1)
        >>> loss_fn(torch.zeros(2, 4), torch.tensor([0, 3])).shape
        torch.Size([])
    """

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, target: Tensor) -> Tensor: ...

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


def convert(module: ModuleT) -> ModuleT:
    r"""Turn each torch.nn.Linear in ``module`` into a :class:`Linear`, in place, and return
    ``module``.

    The module objects, their Parameters, names and hooks stay what they are (only their class
    changes), so optimizers, references and checkpoints stay good. Where a torch.nn.Sequential runs
    an activation right after a Linear, it becomes part of the Linear, and torch.nn.Identity takes
    its place. That is not done, and the activation left as it is, where it has other than default
    parameters, where either of the two has hooks, or where the Linear stands in the model more than
    once. (Code of the model's own that calls a Linear inside a Sequential directly, past the
    activation, cannot be seen: it would get the activation too.)

    Left alone: subclasses of torch.nn.Linear, Linears whose forward was replaced, and dtypes
    without a kernel.

    Args:
        module: any model; changed in place.

    Returns:
        ``module``.

    Example::

        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh())
        >>> gdext.nn.convert(model)
        Sequential(
          (0): Linear(in_features=8, out_features=64, bias=True, activation='tanh')
          (1): Identity()
        )
    """
    uses = Counter(id(child) for parent in module.modules() for child in parent._modules.values())
    for layer in list(module.modules()):
        if _is_plain_linear(layer):
            layer.__class__ = Linear
            layer.__dict__["activation"] = None
    for parent in module.modules():
        if isinstance(parent, nn.Sequential) and runs_in_sequence(parent):
            for (_, layer), (name, follower) in pairwise(list(parent._modules.items())):
                activation = activation_name(follower)
                if (
                    activation
                    and uses[id(layer)] == 1
                    and _is_fusible(layer)
                    and not _is_altered(follower)
                ):
                    assert isinstance(layer, Linear)
                    layer.activation = activation
                    parent._modules[name] = nn.Identity()
    return module


def runs_in_sequence(module: nn.Sequential) -> bool:
    """Whether calling the module is calling its children one after the other."""
    forward = type(module).forward
    return forward in (nn.Sequential.forward, MLP.forward) and "forward" not in module.__dict__


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module calls more than its forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def has_plain_parts(layer: nn.Linear) -> bool:
    """Whether forward is the class's and weight and bias (or None) are the registered Parameters:
    other code may have put a function or tensors of its own in their place."""
    params = layer._parameters
    return (
        params.get("weight") is not None
        and "bias" in params
        and layer.__dict__.keys().isdisjoint(("forward", "weight", "bias"))
    )


def _is_plain_linear(module: nn.Module) -> bool:
    return (
        type(module) is nn.Linear
        and "forward" not in module.__dict__
        and module.weight.dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    )


def _is_fusible(module: nn.Module | None) -> bool:
    return type(module) is Linear and module.activation is None and not _is_altered(module)


def _is_altered(module: nn.Module) -> bool:
    """Whether calling the module does more than its class's forward."""
    hooks = (value for name, value in module.__dict__.items() if name.endswith("_hooks"))
    return "forward" in module.__dict__ or any(hooks)


def activation_name(module: nn.Module) -> str | None:
    """The name of the activation that ``module`` is, if it is one with default parameters."""
    for kind, name in _SIMPLE_ACTIVATIONS.items():
        if type(module) is kind:
            return name
    if type(module) is nn.LeakyReLU and module.negative_slope == 0.01:
        return "leaky_relu"
    if type(module) is nn.ELU and module.alpha == 1.0:
        return "elu"
    if type(module) is nn.Softplus and module.beta == 1 and module.threshold == 20:
        return "softplus"
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    return None


_SIMPLE_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.SiLU: "silu",
}
