"""A model as the layers of an MLP."""

from __future__ import annotations

from itertools import pairwise
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from gdext import nn as gdext_nn
from gdext.functional import activation_number

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_IDENTITY = activation_number(None)


class Network:
    """The layers of ``model`` in the order in which it runs them, L of them.

    Args:
        user: who reads it, for messages.
        devices: the types of devices that it has kernels for.

    Attributes:
        params: for each layer its weight, and its bias if it has one.
        biases: [L], whether it has one.
        activations: [L], as the ops number them.

    Raises:
        TypeError: a module that is no Linear, activation, Flatten, Identity or Sequential of those,
            or a parameter that is no plain torch.nn.Parameter.
        ValueError: layers that do not follow one another, or that share a parameter.
        RuntimeError: hooks.
    """

    def __init__(
        self,
        model: nn.Module,
        user: str = "the fused step",
        devices: tuple[str, ...] = ("cpu", "cuda"),
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: wanted a torch.nn.Module, got {type(model).__name__}")
        self.model = model
        self.user = user
        self._devices = devices
        self.params: list[nn.Parameter] = []
        self.biases: list[bool] = []
        self.activations: list[int] = []
        self._linears: list[nn.Linear] = []
        self._seen: list[tuple[nn.Module, object]] = []
        if torch_module._has_any_global_hook():
            self._refuse_hooks("torch.nn.modules.module.register_module_*_hook")
        self._read(model)
        if not self._linears:
            raise ValueError("model: wanted at least one Linear, got none")

    def is_current(self) -> bool:
        """Whether reading the model anew would give the same."""
        return not torch_module._has_any_global_hook() and all(
            _content(module) == content for module, content in self._seen
        )

    def check_parameters(self) -> None:
        """Raise TypeError, ValueError or NotImplementedError unless the kernel can work on them."""
        first = self.params[0]
        for p in self.params:
            name = self.name_of(p)
            if p.device.type not in self._devices:
                raise NotImplementedError(
                    f"{name}: wanted a parameter on {' or '.join(self._devices)} ({self.user} has "
                    f"no kernel for another device), got device {p.device}"
                )
            if p.device != first.device:
                raise ValueError(
                    f"{name}: wanted device {first.device} (that of {self.name_of(first)}), got "
                    f"{p.device}"
                )
            if p.layout is not torch.strided or p.is_neg():
                raise TypeError(
                    f"{name}: wanted a dense tensor, got one that is sparse or lazily negated"
                )
            if p.dtype not in _DTYPES or p.dtype is not first.dtype:
                wanted = (
                    "float32, float64, bfloat16 or float16"
                    if p is first
                    else f"{first.dtype} (that of {self.name_of(first)})"
                )
                raise TypeError(f"{name}: wanted dtype {wanted}, got {p.dtype}")
        for below, above in pairwise(self._linears):
            outputs, inputs = below.weight.shape[0], above.weight.shape[1]
            if outputs != inputs:
                raise ValueError(
                    f"{self._name(above)}: wanted in_features {outputs} (out_features of the "
                    f"Linear before it), got {inputs}"
                )

    def check_gradients(self) -> None:
        """Raise RuntimeError unless each parameter requires a gradient, which nobody is shown."""
        self.check_hooks()
        for p in self.params:
            if not p.requires_grad:
                raise RuntimeError(
                    f"{self.name_of(p)}: wanted requires_grad=True (the fused step updates every "
                    "parameter), got False"
                )

    def check_hooks(self) -> None:
        """Raise RuntimeError if a parameter has hooks that autograd would call."""
        for p in self.params:
            if p._backward_hooks or p._post_accumulate_grad_hooks:
                self._refuse_hooks(self.name_of(p))

    def name_of(self, p: Tensor) -> str:
        return next(name for name, other in self.model.named_parameters() if other is p)

    def _refuse_hooks(self, name: str) -> NoReturn:
        raise RuntimeError(f"{name}: wanted no hooks, which {self.user} would not call; got some")

    def _name(self, module: nn.Module) -> str:
        name = next(name for name, other in self.model.named_modules() if other is module)
        return f"model.{name}" if name else "model"

    def _read(self, module: nn.Module) -> None:
        content = _content(module)
        self._seen.append((module, content))
        if content is _HOOKED:
            self._refuse_hooks(self._name(module))
        if content is _UNKNOWN:
            raise TypeError(
                f"{self._name(module)}: wanted a Linear, an activation that gdext knows with its "
                "default parameters, Flatten(), Identity, or a Sequential of those, got "
                f"{module!r}"
            )
        if isinstance(module, nn.Linear):
            self._read_linear(module)
        elif isinstance(module, nn.Sequential):
            for child in module:
                self._read(child)
        elif isinstance(content, str):
            if not self._linears or self.activations[-1] != _IDENTITY:
                place = "another activation" if self._linears else "nothing"
                raise ValueError(
                    f"{self._name(module)}: wanted an activation right after a Linear, got "
                    f"{type(module).__name__} after {place}"
                )
            self.activations[-1] = activation_number(content)

    def _read_linear(self, module: nn.Linear) -> None:
        weight, bias = module._parameters["weight"], module._parameters["bias"]
        for name, p in (("weight", weight), ("bias", bias)):
            if type(p) is not nn.Parameter and not (name == "bias" and p is None):
                raise TypeError(
                    f"{self._name(module)}.{name}: wanted a plain torch.nn.Parameter, "
                    f"got {type(p).__name__}"
                )
            if any(p is other for other in self.params):
                raise ValueError(
                    f"{self._name(module)}.{name}: wanted a parameter of this layer alone, got one "
                    "that another layer has too"
                )
            if p is not None:
                self.params.append(p)
        self._linears.append(module)
        self.biases.append(bias is not None)
        self.activations.append(activation_number(getattr(module, "activation", None)))


_HOOKED, _UNKNOWN = object(), object()


def _content(module: nn.Module) -> object:
    """What ``module`` is made of: while it is equal, so is what calling the module does."""
    if gdext_nn.has_hooks(module):
        return _HOOKED
    kind = type(module)
    if "forward" in module.__dict__:
        return _UNKNOWN
    if isinstance(module, nn.Linear) and kind in (gdext_nn.Linear, nn.Linear):
        if not gdext_nn.has_plain_parts(module):
            return _UNKNOWN
        p = module._parameters
        return kind, id(p.get("weight")), id(p.get("bias")), module.__dict__.get("activation")
    if isinstance(module, nn.Sequential) and gdext_nn.runs_in_sequence(module):
        return list(module._modules.values())
    if isinstance(module, nn.Flatten) and kind is nn.Flatten:
        return None if module.start_dim == 1 and module.end_dim == -1 else _UNKNOWN
    if kind is nn.Identity:
        return None
    return gdext_nn.activation_name(module) or _UNKNOWN
