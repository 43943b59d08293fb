"""gdext.nn.convert: what is swapped, what is left alone, and that nothing of the model is lost."""

import copy

import pytest
import torch
from compare import assert_close
from inputs import randn
from torch import nn

from gdext.nn import Linear, convert


def assert_same_outputs(got, want, x, tolerance=1e-5):
    """Same outputs and same parameter gradients, by name."""
    y, want_y = got(x), want(x)
    torch.testing.assert_close(y, want_y, rtol=tolerance, atol=tolerance)
    dy = torch.randn_like(y)
    for model, out in ((got, y), (want, want_y)):
        model.zero_grad()
        out.backward(dy)
    names = [name for name, _ in want.named_parameters()]
    assert [name for name, _ in got.named_parameters()] == names
    for (name, p), q in zip(got.named_parameters(), want.parameters(), strict=True):
        assert_close(p.grad, q.grad, tolerance, name)


FUSIBLE = {
    "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(), "elu": nn.ELU(), "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(), "softplus": nn.Softplus(), "silu": nn.SiLU(), "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
}  # fmt: skip
NOT_FUSIBLE = [
    nn.LeakyReLU(0.2), nn.ELU(0.5), nn.Softplus(beta=2), nn.Softplus(threshold=5), nn.ReLU6(),
    nn.Hardtanh(), nn.SELU(), nn.Softmax(-1), nn.Dropout(0.0), nn.PReLU(),
]  # fmt: skip


def twins(model):
    """A converted model, and a copy that was left alone."""
    original = copy.deepcopy(model)
    return convert(model), original


@pytest.mark.parametrize("activation", FUSIBLE)
def test_convert_fuses(device, activation):
    model = nn.Sequential(nn.Linear(6, 5), copy.deepcopy(FUSIBLE[activation]), nn.Linear(5, 3)).to(
        device
    )
    parameters, keys = list(model.parameters()), list(model.state_dict())
    got, original = twins(model)
    assert [type(m) for m in got] == [Linear, nn.Identity, Linear]
    assert [got[0].activation, got[2].activation] == [activation, None]
    assert all(p is q for p, q in zip(got.parameters(), parameters, strict=True))
    assert list(got.state_dict()) == keys
    got.load_state_dict(original.state_dict())
    assert_same_outputs(got, original, randn(4, 6, dtype=torch.float32, device=device))


@pytest.mark.parametrize("follower", NOT_FUSIBLE, ids=repr)
def test_convert_leaves_other_followers(follower):
    got, original = twins(nn.Sequential(nn.Linear(6, 5), copy.deepcopy(follower), nn.Linear(5, 3)))
    assert type(got[1]) is type(follower) and repr(got[1]) == repr(follower)
    assert [type(got[0]), got[0].activation, type(got[2])] == [Linear, None, Linear]
    assert_same_outputs(got, original, randn(4, 6, dtype=torch.float32))


def test_convert_fuses_in_place_and_inplace_activations():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True))
    got, original = twins(model)
    assert got is model and got[0].activation == "relu"
    assert_same_outputs(got, original, randn(4, 6, dtype=torch.float32))


def test_convert_a_lone_linear():
    layer = nn.Linear(6, 5)
    weight, bias = layer.weight, layer.bias
    got = convert(layer)
    assert type(got) is Linear and got.activation is None
    assert got.weight is weight and got.bias is bias
    x = randn(4, 6, dtype=torch.float32)
    torch.testing.assert_close(got(x), nn.functional.linear(x, weight, bias))


class Residual(nn.Module):
    """An activation that is registered after a Linear and not run after it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.act = nn.ReLU()
        self.block = nn.Sequential(
            nn.Linear(6, 6), nn.Tanh(), nn.Sequential(nn.Linear(6, 6), nn.GELU())
        )

    def forward(self, x):
        return self.block(self.first(self.act(x))) + x


def test_convert_nested():
    got, original = twins(Residual())
    assert type(got.first) is Linear and got.first.activation is None and type(got.act) is nn.ReLU
    assert got.block[0].activation == "tanh" and got.block[2][0].activation == "gelu"
    assert list(got.state_dict()) == list(original.state_dict())
    assert_same_outputs(got, original, randn(4, 6, dtype=torch.float32))


def test_convert_a_linear_used_twice():
    shared = nn.Linear(6, 6)
    got, original = twins(nn.Sequential(shared, nn.ReLU(), shared, nn.Tanh()))
    assert got[0] is got[2] and got[0].weight is shared.weight
    assert_same_outputs(got, original, randn(4, 6, dtype=torch.float32))


def test_convert_a_linear_shared_between_parents():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 6)
            self.body = nn.Sequential(self.head, nn.ReLU())

        def forward(self, x):
            return self.head(x) + self.body(x)

    got, original = twins(Two())
    assert_same_outputs(got, original, randn(4, 6, dtype=torch.float32))


def test_convert_tied_weights():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    got, original = twins(model)
    assert got[0].weight is got[2].weight
    assert_same_outputs(got, original, randn(4, 6, dtype=torch.float32))


def test_convert_an_activation_used_twice():
    act = nn.Tanh()
    got, original = twins(nn.Sequential(nn.Linear(6, 6), act, nn.Linear(6, 6), act, act))
    assert_same_outputs(got, original, randn(4, 6, dtype=torch.float32))


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("hook", ["forward", "forward_pre", "full_backward"])
def test_convert_keeps_hooks(where, hook):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    seen = []
    register = getattr(model[where], f"register_{hook}_hook")
    # What a forward hook sees of the Linear must still be z, before the activation.
    register(
        lambda module, args, *rest: seen.append(
            rest[0].detach().clone() if hook == "forward" else 1
        )
    )
    x = randn(4, 6, dtype=torch.float32)
    model(x).sum().backward()
    want = list(seen)
    seen.clear()
    convert(model)(x).sum().backward()
    assert len(seen) == len(want) == 1
    if hook == "forward":
        torch.testing.assert_close(seen[0], want[0])


def test_convert_leaves_subclasses_alone():
    class Mine(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    attention = nn.MultiheadAttention(4, 2)
    kinds = [type(m) for m in attention.modules()]
    assert [type(m) for m in convert(attention).modules()] == kinds
    got = convert(nn.Sequential(Mine(3, 3), nn.ReLU()))
    assert [type(m) for m in got] == [Mine, nn.ReLU]


def test_convert_leaves_subclasses_of_sequential_that_run_otherwise():
    class Backwards(nn.Sequential):
        def forward(self, x):
            return self[0](self[1](x))

    got, original = twins(Backwards(nn.Linear(6, 6), nn.ReLU()))
    assert_same_outputs(got, original, randn(4, 6, dtype=torch.float32))


def test_convert_twice_is_once():
    once = convert(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    described = repr(once)
    assert repr(convert(once)) == described


def test_convert_in_the_middle_of_training(device):
    # The optimizer made before goes on, momentum and all, on the same numbers.
    models = [nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().to(device)]
    models.append(copy.deepcopy(models[0]))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in models]
    for step in range(6):
        if step == 3:
            assert convert(models[0]) is models[0]
        x, target = randn(16, 6, device=device, seed=step), torch.arange(16, device=device) % 3
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), target).backward()
            optimizer.step()
    for p, q in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


def test_convert_keeps_mode_and_requires_grad():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    model[0].weight.requires_grad_(False)
    got = convert(model)
    assert not got.training and not got[0].training and not got[0].weight.requires_grad


def test_convert_leaves_a_sequential_whose_forward_was_replaced():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model.forward = lambda x: model[0](x)
    x = randn(2, 4, dtype=torch.float32)
    want = model(x)
    assert isinstance(convert(model)[1], nn.ReLU)
    torch.testing.assert_close(model(x), want)
