"""What PyTorch tests its own linear, losses, activations and SGD with (torch.testing._internal).

EXCLUSIONS is what of that does not apply to gdext, with the reason."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import hypothesis
import torch
from inputs import DTYPES

# Imported, they forbid setting the flags of torch.backends and load a profile of hypothesis' that
# draws fewer examples: for all other tests of the process too.
with mock.patch.object(torch.backends, "disable_global_flags"):
    from torch.testing._internal import common_optimizers
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db
hypothesis.settings.load_profile("gdext")

LINEAR, MSE, CROSS_ENTROPY = (f"nn.functional.{f}" for f in ("linear", "mse_loss", "cross_entropy"))
ELU, GELU, SOFTPLUS = (f"nn.functional.{f}" for f in ("elu", "gelu", "softplus"))
# The OpInfos that gdext has as an activation, and its name.
ACTIVATIONS = {
    "nn.functional.relu": "relu",
    "nn.functional.leaky_relu": "leaky_relu",
    ELU: "elu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    SOFTPLUS: "softplus",
    "nn.functional.silu": "silu",
    GELU: "gelu",
}
OPS = (LINEAR, MSE, CROSS_ENTROPY, *ACTIVATIONS)
MODULES = ("Linear", "MSELoss", "CrossEntropyLoss")

# By name and variant: silu has one for complex numbers.
OP_INFOS = {op.full_name: op for op in op_db if op.name in OPS}
MODULE_INFOS = {
    name: next(m for m in module_db if m.module_cls is getattr(torch.nn, name)) for name in MODULES
}
(SGD_INFO,) = (info for info in common_optimizers.optim_db if info.optim_cls is torch.optim.SGD)


@dataclass(frozen=True)
class Case:
    """One of PyTorch's inputs, as far as an exclusion looks at it."""

    of: str  # OpInfo, ModuleInfo or OptimizerInfo
    kind: str  # "input", "NaN" (in an input), "error input" or "no error inputs"
    dtype: torch.dtype | None = None
    options: dict[str, Any] = field(default_factory=dict)
    message: str = ""  # of an error input, PyTorch's (a regular expression)


@dataclass(frozen=True)
class Exclusion:
    """PyTorch's inputs that cannot run as they are, and what is tested in their place."""

    of: Iterable[str]
    applies: Callable[[Case], bool]
    reason: str
    instead: str


def _is_input_with(*options: str) -> Callable[[Case], bool]:
    return lambda case: case.kind == "input" and any(case.options.get(o) for o in options)


def _is_error(*messages: str) -> Callable[[Case], bool]:
    return lambda case: case.kind == "error input" and case.message.startswith(messages)


EXCLUSIONS = {
    "dtype": Exclusion(
        OPS,
        lambda case: case.kind == "input" and case.dtype not in DTYPES,
        "kernels are for float32, float64, bfloat16 and float16, not for integers, booleans and "
        "complex numbers",
        "an error that names the dtype",
    ),
    "softplus' parameters": Exclusion(
        (SOFTPLUS,),
        _is_input_with("beta", "threshold"),
        "activations have no parameters: PyTorch's defaults are built in",
        "the same numbers, with the default parameters",
    ),
    "elu's parameter": Exclusion(
        (ELU,),
        _is_input_with("alpha"),
        "activations have no parameters: PyTorch's defaults are built in",
        "the same numbers, with the default parameter",
    ),
    "elu's derivatives at NaN": Exclusion(
        (ELU,),
        lambda case: case.kind == "NaN",
        "PyTorch's vector code gives NaN there, its code for the last elements of a tensor 1",
        "NaN at every element",
    ),
    "gelu's error": Exclusion(
        (GELU,),
        _is_error("approximate argument must be"),
        "the approximation is part of the activation's name",
        "ValueError for an unknown name, where PyTorch raises RuntimeError",
    ),
    "no error inputs of ops": Exclusion(
        (*(op for op in OPS if op != GELU), "nn.functional.silu.complex"),
        lambda case: case.kind == "no error inputs",
        "PyTorch has no error inputs for it",
        "the bad calls of tests/test_errors.py",
    ),
    "no error inputs of modules": Exclusion(
        ("Linear", "MSELoss"),
        lambda case: case.kind == "no error inputs",
        "PyTorch has no error inputs for it",
        "the bad calls of tests/test_errors.py",
    ),
    "CrossEntropyLoss' messages": Exclusion(
        ("CrossEntropyLoss",),
        _is_error(
            "Expected floating point type for target",
            "expected target dtype to be Long or Byte",
            "weight tensor should be defined either for all",
            "Expected target size",
        ),
        "gdext's messages name the argument, what was wanted and what was given",
        "the same type of error, gdext's message",
    ),
    "differentiable": Exclusion(
        ("SGD",),
        _is_input_with("differentiable"),
        "the update is a kernel that autograd does not see through",
        "RuntimeError that names torch.optim.SGD",
    ),
    "sparse gradients": Exclusion(
        ("SGD",),
        _is_input_with("sparse"),
        "the kernel reads dense memory",
        "RuntimeError that names the gradient; nothing is changed",
    ),
}


def exclusion(case: Case) -> str | None:
    """The name of the exclusion that the case falls under, if any."""
    of = case.of.removesuffix(".complex") if case.kind == "input" else case.of
    for name, entry in EXCLUSIONS.items():
        if of in entry.of and entry.applies(case):
            return name
    return None


def op_cases(device: str) -> Iterator[Case]:
    for name, info in OP_INFOS.items():
        for dtype in info.supported_dtypes(device):
            every = info.reference_inputs if dtype == torch.float32 else info.sample_inputs
            for sample in every(device, dtype):
                yield Case(name, "input", dtype, sample.kwargs)
                if sample.input.is_floating_point() and sample.input.isnan().any():
                    yield Case(name, "NaN", dtype)
        if info.error_inputs_func is None:
            yield Case(name, "no error inputs")
        else:
            for error in info.error_inputs(device):
                yield Case(name, "error input", message=str(error.error_regex))


def module_cases(device: str) -> Iterator[Case]:
    for name, info in MODULE_INFOS.items():
        if info.module_error_inputs_func is None:
            yield Case(name, "no error inputs")
        else:
            for error in module_error_inputs(name, device):
                yield Case(name, "error input", message=str(error.error_regex))


def module_error_inputs(name: str, device: str) -> list[Any]:
    info = MODULE_INFOS[name]
    return list(
        info.module_error_inputs_func(
            info, device=device, dtype=torch.float32, requires_grad=False, training=False
        )
    )


def sgd_options(device: str, dtype: torch.dtype) -> list[dict[str, Any]]:
    """The options of all inputs, each with every implementation that PyTorch has to choose from."""
    every = common_optimizers._get_optim_inputs_including_global_cliquey_kwargs
    return [given.kwargs for given in every(device, dtype, SGD_INFO)]


def sgd_cases(device: str) -> Iterator[Case]:
    for options in sgd_options(device, torch.float32):
        yield Case("SGD", "input", torch.float32, options)
    for error in SGD_INFO.optim_error_inputs_func(device, torch.float32):
        yield Case("SGD", "error input", message=str(error.error_regex))
    if SGD_INFO.supports_sparse:
        yield Case("SGD", "input", torch.float32, {"sparse": True})
