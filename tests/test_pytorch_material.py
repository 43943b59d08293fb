"""gdext on the inputs that PyTorch tests its own linear, losses, activations and SGD with."""

import re

import pytest
import torch
from compare import assert_close
from inputs import DTYPES, leaf, randn
from judge import (
    TORCH_ACTIVATION,
    activate,
    assert_activation,
    assert_cross_entropy,
    assert_linear,
    assert_mse,
    derivatives,
)
from pytorch_material import (
    ACTIVATIONS,
    CROSS_ENTROPY,
    EXCLUSIONS,
    GELU,
    LINEAR,
    MODULE_INFOS,
    MSE,
    OP_INFOS,
    Case,
    exclusion,
    module_cases,
    module_error_inputs,
    op_cases,
    sgd_cases,
)

import gdext
import gdext.functional as G

DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
OP = pytest.mark.parametrize("op", OP_INFOS)
MODULE = pytest.mark.parametrize("name", MODULE_INFOS)
MODULE_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2}


def test_every_exclusion_is_hit():
    cases = [case for of in (op_cases, module_cases, sgd_cases) for case in of("cpu")]
    hit = {exclusion(case) for case in cases}
    assert hit - {None} == set(EXCLUSIONS)


def activation_of(op, kwargs):
    if op == GELU and kwargs.get("approximate", "none") != "none":
        return f"gelu_{kwargs['approximate']}"
    return ACTIVATIONS[op]


def call(op, sample):
    """gdext's function on one of PyTorch's inputs."""
    if op in ACTIVATIONS:
        return activate(sample.input, activation_of(op, sample.kwargs))
    function = {LINEAR: G.linear, MSE: G.mse_loss, CROSS_ENTROPY: G.cross_entropy}[op]
    return function(sample.input, *sample.args, **sample.kwargs)


def judge(op, sample):
    x, device, dtype = leaf(sample.input), sample.input.device, sample.input.dtype
    options = sample.kwargs
    if op in ACTIVATIONS:
        large = x.numel() > 2**15
        if op != GELU and options:  # not gdext's to choose: run with the defaults
            assert exclusion(Case(op, "input", dtype, options))
        activation = activation_of(op, options)
        nan = x.isnan()
        if bool(nan.any()) and exclusion(Case(op, "NaN", dtype)):
            values = derivatives(lambda z: activate(z, activation), x[nan])
            assert all(bool(v.isnan().all()) for v in values)
            x = leaf(torch.where(nan, 0.5, x))
        assert_activation(x, activation, every=61 if large else 1)
        if large:
            with torch.no_grad():
                got, peer = activate(x, activation), TORCH_ACTIVATION[activation](x)
            assert_close(got, peer, 8 * torch.finfo(dtype).eps)
        return
    tensors = [leaf(t) if t.is_floating_point() else t for t in sample.args]
    dy = randn(*call(op, sample).shape, dtype=dtype, device=device)
    if op == LINEAR:
        weight, bias = tensors if len(tensors) == 2 else (*tensors, None)
        assert_linear(x, weight, bias, "identity", dy)
    elif op == MSE:
        assert_mse(x, *tensors, None, options.get("reduction", "mean"), dy)
    else:
        assert_cross_entropy(x, *tensors, dy=dy, **{"weight": None, **options})


@DTYPE
@OP
def test_op(device, op, dtype):
    info = OP_INFOS[op]
    if dtype not in info.supported_dtypes(device):
        pytest.skip(f"PyTorch has no {dtype} inputs for {op}")
    samples = list(info.reference_inputs(device, dtype))
    assert samples
    for i, sample in enumerate(samples):
        try:
            judge(op, sample)
        except Exception as error:
            raise AssertionError(f"sample {i}: {sample.summary()}") from error


@OP
def test_dtypes_without_a_kernel_raise(device, op):
    dtypes = [d for d in OP_INFOS[op].supported_dtypes(device) if d not in DTYPES]
    if not dtypes:
        pytest.skip(f"PyTorch has no other dtypes for {op}")
    for dtype in dtypes:
        sample = next(iter(OP_INFOS[op].sample_inputs(device, dtype)))
        assert exclusion(Case(op, "input", dtype, sample.kwargs)) == "dtype"
        with pytest.raises((RuntimeError, NotImplementedError), match=str(dtype).split(".")[1]):
            call(OP_INFOS[op].name, sample)


@OP
def test_error_inputs_of_op(device, op):
    info = OP_INFOS[op]
    if info.error_inputs_func is None:
        assert exclusion(Case(op, "no error inputs"))
        return
    for error in info.error_inputs(device):
        excluded = exclusion(Case(op, "error input", message=str(error.error_regex)))
        wanted = ValueError if excluded == "gelu's error" else error.error_type
        with pytest.raises(wanted) as raised:
            call(info.name, error.sample_input)
        assert raised.type is wanted
        assert excluded or re.search(error.error_regex, str(raised.value))


def module_inputs(name, device, dtype):
    info = MODULE_INFOS[name]
    return info.module_inputs_func(
        info, device=device, dtype=dtype, requires_grad=False, training=True
    )


@MODULE
@DTYPE
def test_module(device, name, dtype):
    """Beside PyTorch's module, and the reference that PyTorch judges its own by."""
    if dtype not in MODULE_INFOS[name].dtypes:
        pytest.skip(f"PyTorch has no {dtype} inputs for {name}")
    for given in module_inputs(name, device, dtype):
        args, kwargs = given.constructor_input.args, given.constructor_input.kwargs
        theirs = getattr(torch.nn, name)(*args, **kwargs).to(device, dtype)
        ours = getattr(gdext.nn, name)(*args, **kwargs).to(device, dtype)
        ours.load_state_dict(theirs.state_dict())
        assert not given.forward_input.kwargs or name == "Linear"  # input=
        inputs = [*given.forward_input.args, *given.forward_input.kwargs.values()]
        leaves = [leaf(t) if t.is_floating_point() else t for t in inputs]
        got, want = (module(*leaves) for module in (ours, theirs))
        assert_close(got, want, MODULE_TOLERANCE[dtype], given.desc)
        if given.reference_fn is not None:
            reference = given.reference_fn(theirs, *inputs)
            assert_close(got, reference.to(dtype), MODULE_TOLERANCE[dtype], given.desc)
        leaves = [t for t in leaves if t.requires_grad]
        dy = torch.randn_like(want)
        grads = [
            torch.autograd.grad(y, [*leaves, *module.parameters()], dy)
            for y, module in ((got, ours), (want, theirs))
        ]
        for g, w in zip(*grads, strict=True):
            assert_close(g, w, MODULE_TOLERANCE[dtype], given.desc)


@MODULE
def test_error_inputs_of_module(device, name):
    info = MODULE_INFOS[name]
    if info.module_error_inputs_func is None:
        assert exclusion(Case(name, "no error inputs"))
        return
    for error in module_error_inputs(name, device):
        given = error.module_error_input
        args, kwargs = given.constructor_input.args, given.constructor_input.kwargs
        assert error.error_on.name == "FORWARD_ERROR"
        module = getattr(gdext.nn, name)(*args, **kwargs).to(device)
        with pytest.raises(error.error_type) as raised:
            module(*given.forward_input.args, **given.forward_input.kwargs)
        assert raised.type is error.error_type
        excluded = exclusion(Case(name, "error input", message=str(error.error_regex)))
        assert excluded or re.search(error.error_regex, str(raised.value)), raised.value
