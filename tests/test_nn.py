"""gdext.nn's layers and losses beside torch.nn's."""

import copy
import pickle

import pytest
import torch
from compare import assert_bits_equal
from inputs import randn
from torch import nn

import gdext
from gdext.nn import MLP, CrossEntropyLoss, Linear, MSELoss

REDUCTION = pytest.mark.parametrize("reduction", ["none", "mean", "sum"])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_linear_starts_as_torch_s(device, bias, dtype):
    layers = []
    for kind in (Linear, nn.Linear):
        torch.manual_seed(5)
        layers.append(kind(7, 3, bias=bias, device=device, dtype=dtype))
    got, want = (layer.state_dict() for layer in layers)
    assert list(got) == list(want)
    for name in want:
        assert_bits_equal(got[name], want[name], name)
    assert layers[0].weight.dtype == dtype and (layers[0].bias is None) == (not bias)
    assert layers[0].weight.device.type == device


def test_linear_state_dict_goes_both_ways():
    ours, theirs = Linear(7, 3, activation="relu"), nn.Linear(7, 3)
    x = randn(5, 7, dtype=torch.float32)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), theirs(x).relu())
    other = nn.Linear(7, 3)
    ours.load_state_dict(other.state_dict())
    torch.testing.assert_close(ours(x), other(x).relu())


def test_linear_repr():
    assert repr(Linear(7, 3, bias=False)) == "Linear(in_features=7, out_features=3, bias=False)"
    assert "activation='tanh'" in repr(Linear(7, 3, activation="tanh"))


def test_linear_survives_pickle_and_deepcopy():
    layer, x = Linear(7, 3, activation="silu"), randn(5, 7, dtype=torch.float32)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.activation == "silu"
        assert_bits_equal(twin(x), layer(x))


def test_mlp_is_a_sequential_of_torch_s():
    torch.manual_seed(3)
    ours = MLP([6, 5, 4, 3], activation="tanh", output_activation="sigmoid")
    torch.manual_seed(3)
    theirs = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3))
    assert [layer.activation for layer in ours] == ["tanh", "tanh", "sigmoid"]
    for (name, p), (their_name, q) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert name == their_name
        assert_bits_equal(p, q, name)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = randn(8, 6, dtype=torch.float32)
    want = theirs[2](theirs[1](theirs[0](x).tanh()).tanh()).sigmoid()
    torch.testing.assert_close(ours(x), want)


def test_mlp_slice_is_a_sequential_of_the_same_layers():
    model = MLP([6, 5, 4, 3])
    head = model[:-1]
    assert type(head) is nn.Sequential and list(head) == [model[0], model[1]]
    assert [type(layer).__name__ for layer in model + model * 2] == ["Linear"] * 9


def test_mlp_defaults_and_options(device):
    model = MLP((4, 8, 3), bias=False, device=device, dtype=torch.float64)
    assert [layer.activation for layer in model] == ["relu", None]
    assert all(p.dtype == torch.float64 and p.device.type == device for p in model.parameters())
    assert [p.shape for p in model.parameters()] == [(8, 4), (3, 8)]
    assert len(MLP([4, 2])) == 1


@REDUCTION
def test_losses_are_torch_s(device, reduction):
    x, t = randn(4, 5, device=device), randn(4, 5, device=device)
    target, weight = (
        torch.tensor([0, 4, 2, 2], device=device),
        torch.rand(5, device=device).double(),
    )
    options = dict(weight=weight, ignore_index=2, label_smoothing=0.1, reduction=reduction)
    ours, theirs = CrossEntropyLoss(**options), nn.CrossEntropyLoss(**options)
    torch.testing.assert_close(ours(x, target), theirs(x, target))
    assert (ours.ignore_index, ours.label_smoothing, ours.reduction) == (2, 0.1, reduction)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight"]
    ours.load_state_dict(theirs.state_dict())
    assert list(CrossEntropyLoss().state_dict()) == []
    torch.testing.assert_close(
        MSELoss(reduction=reduction)(x, t), nn.MSELoss(reduction=reduction)(x, t)
    )
    assert isinstance(ours, nn.CrossEntropyLoss) and isinstance(MSELoss(), nn.MSELoss)


def test_loss_weight_moves_with_the_module():
    assert CrossEntropyLoss(weight=torch.ones(3)).double().weight.dtype == torch.float64


def test_public_names():
    assert set(gdext.nn.__all__) == {"MLP", "CrossEntropyLoss", "Linear", "MSELoss", "convert"}
