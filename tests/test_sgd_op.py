"""The op under the optimizer, torch.ops.gdext.sgd_."""

import copy

import pytest
import torch
from compare import assert_bits_equal


def op_arguments(device, momentum=0.9, **changed):
    params, grads, momentum_buffers = (
        [torch.randn(4, 5, device=device), torch.randn(3, device=device)] for _ in range(3)
    )
    arguments = {
        "params": params,
        "grads": grads,
        "momentum_buffers": momentum_buffers if momentum else [],
        "first": [False, True] if momentum else [],
        "lr": 0.1,
        "lr_tensor": None,
        "momentum": momentum,
        "dampening": 0.0,
        "weight_decay": 0.01,
        "nesterov": False,
        "maximize": False,
        "grad_scale": None,
        "found_inf": None,
    }
    return {**arguments, **changed}


def test_opcheck(device):
    scale, skip = torch.tensor(4.0, device=device), torch.tensor(0.0, device=device)
    for changed in (
        {},
        {"momentum": 0.0},
        {"grad_scale": scale, "found_inf": skip},
        {"lr_tensor": torch.tensor(0.5, device=device), "nesterov": True},
    ):
        arguments = op_arguments(device, **changed)
        positional = [
            arguments.pop(name) for name in ("params", "grads", "momentum_buffers", "first")
        ]
        torch.library.opcheck(torch.ops.gdext.sgd_.default, positional, arguments)


def test_found_inf_writes_nothing(device):
    arguments = op_arguments(
        device,
        grad_scale=torch.tensor(2.0, device=device),
        found_inf=torch.tensor(1.0, device=device),
    )
    before = copy.deepcopy(arguments)
    torch.ops.gdext.sgd_(**arguments)
    for name in ("params", "grads", "momentum_buffers"):
        for got, want in zip(arguments[name], before[name], strict=True):
            assert_bits_equal(got, want, name)


def expanded(*shape):
    return lambda device: torch.zeros((), device=device).expand(shape)


OP_ERRORS = {
    "grads too few": (
        lambda device: {"grads": [torch.zeros(4, 5, device=device)]},
        ValueError,
        "grads: wanted 2 elements (one for each of params), got 1",
    ),
    "momentum_buffers without momentum": (
        lambda device: {"momentum": 0.0, "momentum_buffers": [torch.zeros(4, 5, device=device)]},
        ValueError,
        "momentum_buffers: wanted 0 elements (momentum is 0), got 1",
    ),
    "first too many": (
        lambda _: {"first": [True] * 3},
        ValueError,
        "first: wanted 2 elements (one for each of params), got 3",
    ),
    "shape": (
        lambda device: {"grads": [torch.zeros(4, 5, device=device), torch.zeros(4, device=device)]},
        RuntimeError,
        "grads[1]: wanted shape [3] (that of params[1]), got [4]",
    ),
    "dtype": (
        lambda device: {
            "grads": [torch.zeros(4, 5, device=device).double(), torch.zeros(3, device=device)]
        },
        RuntimeError,
        "grads[0]: wanted dtype float32 (that of params[0]), got float64",
    ),
    "expanded parameter": (
        lambda device: {
            "params": [torch.zeros(5, device=device).expand(4, 5), torch.zeros(3, device=device)]
        },
        RuntimeError,
        "params[0]: wanted every element at an address of its own, got an expanded tensor of shape"
        " [4, 5] with strides [0, 1]",
    ),
    "sparse": (
        lambda device: {
            "grads": [torch.zeros(4, 5, device=device), torch.zeros(3, device=device).to_sparse()]
        },
        RuntimeError,
        "grads[1]: wanted a dense tensor (layout torch.strided), got a sparse one",
    ),
    "lr": (lambda _: {"lr": float("nan")}, ValueError, "lr: wanted a finite number, got nan"),
    "momentum": (
        lambda _: {"momentum": -0.5},
        ValueError,
        "momentum: wanted a finite number >= 0, got -0.5",
    ),
    "dampening": (
        lambda _: {"dampening": float("inf")},
        ValueError,
        "dampening: wanted a finite number, got inf",
    ),
    "weight_decay": (
        lambda _: {"weight_decay": float("nan")},
        ValueError,
        "weight_decay: wanted a finite number >= 0, got nan",
    ),
    "nesterov": (
        lambda _: {"nesterov": True, "dampening": 0.5},
        ValueError,
        "nesterov: wanted momentum > 0 and dampening == 0, got momentum 0.9 and dampening 0.5",
    ),
    "lr_tensor": (
        lambda device: {"lr_tensor": torch.ones(2, device=device)},
        RuntimeError,
        "lr_tensor: wanted one element, got shape [2]",
    ),
    "grad_scale": (
        lambda device: {"grad_scale": torch.ones(0, device=device)},
        RuntimeError,
        "grad_scale: wanted one element, got shape [0]",
    ),
    "found_inf": (
        lambda device: {"found_inf": torch.ones(1, 2, device=device)},
        RuntimeError,
        "found_inf: wanted one element, got shape [1, 2]",
    ),
}


@pytest.mark.parametrize("case", OP_ERRORS)
def test_op_errors(device, case):
    change, error_type, text = OP_ERRORS[case]
    arguments = op_arguments(device)
    arguments.update(change(device))
    before = copy.deepcopy(arguments)
    with pytest.raises(error_type) as error:
        torch.ops.gdext.sgd_(**arguments)
    assert str(error.value) == text
    for name in ("params", "grads", "momentum_buffers"):
        for got, want in zip(arguments[name], before[name], strict=True):
            assert_bits_equal(got, want, name)


def test_gradients_enabled(device):
    """A direct call on leaves that require grad, one of which needs a copy (it has gaps)."""
    gappy = torch.randn(4, 10, device=device)[:, ::2].requires_grad_()
    leaf = torch.randn(3, device=device).requires_grad_()
    arguments = op_arguments(device, momentum=0.0, params=[gappy, leaf], weight_decay=0.0)
    want = [p.detach() - 0.1 * g for p, g in zip((gappy, leaf), arguments["grads"], strict=True)]
    torch.ops.gdext.sgd_(**arguments)
    for p, w in zip((gappy, leaf), want, strict=True):
        assert p.is_leaf
        torch.testing.assert_close(p.detach(), w)


def test_op_needs_one_device(device):
    if device == "cpu":
        pytest.skip("needs two devices")
    arguments = op_arguments(device)
    arguments["grads"][0] = arguments["grads"][0].cpu()
    with pytest.raises(RuntimeError) as error:
        torch.ops.gdext.sgd_(**arguments)
    assert str(error.value) == "grads[0]: wanted device cuda:0 (that of params[0]), got cpu"
