"""MLP's layers joined to one function of autograd give what they give one by one."""

import copy
import itertools
import weakref
from contextlib import nullcontext

import pytest
import torch
from compare import assert_bits_equal
from inputs import leaf, randn
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, grad, vmap

import gdext
from gdext.functional import ACTIVATIONS
from gdext.nn import MLP


def one_by_one(model):
    return nn.Sequential(*model)


def is_joined(y):
    return type(y.grad_fn).__name__ == "LayersBackward"


def run(model, x, dy):
    """y and the gradients of x and the parameters, where there are any."""
    model.zero_grad()
    x = x.detach().requires_grad_(x.requires_grad)
    y = model(x)
    y.backward(dy)
    return {"y": y.detach(), "x": x.grad, **{n: p.grad for n, p in model.named_parameters()}}


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert (got[name] is None) == (value is None), name
        if value is not None:
            assert_bits_equal(got[name], value, name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_as_one_by_one(device, activation, leading, bias):
    sizes = [7, 5, 4, 3]
    model = MLP(sizes, activation, activation, bias=bias, device=device, dtype=torch.float64)
    x, dy = leaf(randn(*leading, 7, device=device)), randn(*leading, 3, device=device)
    got, want = run(model, x, dy), run(one_by_one(model), x, dy)
    assert is_joined(model(x)) and not is_joined(one_by_one(model)(x))
    assert_same(got, want)


FROZEN = [c for n in range(7) for c in itertools.combinations(range(7), n)]


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_frozen(activation):
    """Any part of the parameters and the input may do without a gradient."""
    model = MLP([4, 3, 3, 2], activation, dtype=torch.float64)
    x, dy = randn(5, 4), randn(5, 2)
    for frozen in FROZEN:
        for i, t in enumerate([x, *model.parameters()]):
            t.requires_grad_(i not in frozen)
        assert_same(run(model, x, dy), run(one_by_one(model), x, dy))
        wanted = [t for t in (x, *model.parameters()) if t.requires_grad]
        seconds = []
        for layers in (model, one_by_one(model)):
            first = torch.autograd.grad(layers(x), wanted, dy, create_graph=True)
            total = sum(g.square().sum() for g in first)
            if total.requires_grad:
                seconds.append(torch.autograd.grad(total, wanted, allow_unused=True))
        assert len(seconds) in (0, 2)
        for got, want in zip(*seconds, strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "silu"])
def test_gradcheck(device, activation):
    model = MLP([4, 3, 2], activation, activation, device=device, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]
    x = leaf(randn(3, 4, device=device, seed=1))

    def function(x, *params):
        y = functional_call(model, dict(zip(names, params, strict=True)), (x,))
        assert is_joined(y)
        return y

    inputs = (x, *(leaf(p) for p in model.parameters()))
    assert gradcheck(function, inputs) and gradgradcheck(function, inputs)


def test_second_derivative_where_an_input_is_made_of_a_weight():
    """The first gradients must not go through x to the weight: that is the outer graph's to do."""
    model = MLP([3, 3, 2], "tanh", dtype=torch.float64)
    results = []
    for layers in (model, one_by_one(model)):
        x = model[0].weight.sin()
        (first,) = torch.autograd.grad(layers(x).sum(), model[0].weight, create_graph=True)
        weights = model[0].weight, model[0].bias, model[1].weight
        results.append((first, *torch.autograd.grad(first.square().sum(), weights)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_third_derivative_raises():
    model, x = MLP([3, 3, 2], "tanh", dtype=torch.float64), leaf(randn(4, 3))
    (first,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice, not a third time"):
        second.square().sum().backward()


def test_backward_twice():
    model, x, dy = MLP([4, 3, 2], "tanh"), randn(5, 4).float(), randn(5, 2).float()
    y = model(x)
    first = torch.autograd.grad(y, model.parameters(), dy, retain_graph=True, create_graph=True)
    second = torch.autograd.grad(y, model.parameters(), dy)
    for got, want in zip(first, second, strict=True):
        assert_bits_equal(got.detach(), want)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward(dy)


def test_a_shared_layer():
    model = MLP([4, 4, 4], "tanh", dtype=torch.float64)
    model[1] = model[0]
    x, dy = randn(5, 4), randn(5, 4)
    got = run(model, x, dy)
    want = run(one_by_one(model), x, dy)
    for name in ("y", "0.weight", "0.bias"):
        torch.testing.assert_close(got[name], want[name])


@pytest.mark.parametrize("which", [0, 1])
def test_a_changed_weight_is_noticed(which):
    model = MLP([4, 3, 2], "relu")
    for layers in (model, one_by_one(model)):
        y = layers(leaf(randn(5, 4).float()))
        with torch.no_grad():
            model[which].weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_the_output_may_be_changed():
    """The last layer's, an identity's, is not needed for its gradient."""
    model = MLP([4, 3, 2], "relu")
    model(randn(5, 4).float()).mul_(2).sum().backward()
    assert model[1].bias.grad.tolist() == [10.0, 10.0]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_input_is_let_go(elsewhere):
    """After the backward, and where what is saved is kept elsewhere."""
    model = MLP([7, 5, 3], "gelu", dtype=torch.float64)
    x = randn(4, 7)
    kept = weakref.ref(x)
    hooks = saved_tensors_hooks(lambda t: t.detach().numpy().copy(), torch.from_numpy)
    with hooks if elsewhere else nullcontext():
        y = model(x)
    if not elsewhere:
        y.sum().backward()
    del x
    assert is_joined(y) and kept() is None


def test_inference_keeps_nothing():
    model = MLP([4, 3, 2], "gelu")
    x = randn(5, 4).float()
    with torch.no_grad():
        y = model(x)
    assert y.grad_fn is None
    assert_bits_equal(y, one_by_one(model)(x).detach())


def with_hook(model, register):
    seen = []
    getattr(model[0], register)(lambda *_: seen.append(register))
    return seen


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_hooks_of_a_layer_are_called(register):
    model = MLP([4, 3, 2])
    seen = with_hook(model, register)
    model(leaf(randn(5, 4).float())).sum().backward()
    assert seen == [register]


def test_global_hooks_are_called():
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m)))
    try:
        model = MLP([4, 3, 2])
        model(randn(5, 4).float())
    finally:
        handle.remove()
    assert seen == [type(model[0]), type(model[1]), MLP]


def test_other_layers_are_called():
    model = MLP([4, 3, 2])
    model[0].forward = lambda input: input[..., :3]
    assert model(torch.ones(1, 4)).shape == (1, 2)
    model = MLP([4, 3, 2])
    model[0] = nn.Linear(4, 3)
    x = randn(5, 4).float()
    torch.testing.assert_close(model(x), model[1](nn.functional.linear(x, *model[0].parameters())))
    model = MLP([4, 3, 2])
    nn.utils.parametrizations.weight_norm(model[0])
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert torch.equal(MLP([4, 2])[:0](x), x)


def takes_its_bias_from(layer, place):
    """Code of others' puts tensors of its own in a Parameter's place."""
    bias = torch.arange(3.0, requires_grad=True)
    if place == "__dict__":
        layer.__dict__["bias"] = bias  # hides the Parameter
        return bias
    del layer.bias
    if place == "buffer":
        layer.register_buffer("bias", bias)
    else:
        layer.bias = bias
    return bias


@pytest.mark.parametrize("place", ["attribute", "buffer", "__dict__"])
def test_tensors_in_the_parameters_place(place):
    model, x = MLP([4, 3, 2], "relu"), randn(5, 4).float()
    bias = takes_its_bias_from(model[0], place)
    hidden = nn.functional.linear(x, model[0].weight, bias).relu()
    want = nn.functional.linear(hidden, *model[1].parameters())
    for layers in (model, one_by_one(model)):
        torch.testing.assert_close(layers(x), want)
    assert torch.autograd.grad(model(x).sum(), bias)[0].any()
    with pytest.raises(TypeError, match=r"model\.0: wanted a Linear"):
        gdext.FusedTrainer(model, gdext.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())


def second_derivative(layers, x, change):
    """The gradients of a gradient penalty, where ``change`` happens between forward and backward;
    none for what requires none by then."""
    layers = copy.deepcopy(layers)
    w = layers[-1].weight
    y = layers(x)
    change(layers)
    (first,) = torch.autograd.grad(y.square().sum(), w, create_graph=True)
    first.square().sum().backward()
    return [first.detach(), *(p.grad for p in layers.parameters())]


def in_torch(model):
    activations = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, None: nn.Identity}
    layers = []
    for layer in model:
        twin = nn.Linear(layer.in_features, layer.out_features, dtype=torch.float64)
        twin.load_state_dict(layer.state_dict())
        for p, q in zip(twin.parameters(), layer.parameters(), strict=True):
            p.requires_grad_(q.requires_grad)
        layers += [twin, activations[layer.activation]()]
    return nn.Sequential(*layers[:-1])


def assert_second_derivatives_are_torch_s(model, x, change):
    want = second_derivative(in_torch(model), x, change)
    for layers in (model, one_by_one(model)):
        got = second_derivative(layers, x, change)
        for a, b in zip(got, want, strict=True):
            assert (a is None) == (b is None)
            if b is not None:
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("then", [True, False], ids=["thawed", "frozen"])
def test_requires_grad_changed_after_the_forward(activation, which, then):
    """Derivatives go to what required them in the forward and still does."""
    model = MLP([4, 3, 3, 2], activation, dtype=torch.float64)
    list(model.parameters())[which].requires_grad_(not then)

    def change(layers):
        list(layers.parameters())[which].requires_grad_(then)

    assert_second_derivatives_are_torch_s(model, leaf(randn(5, 4)), change)


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
def test_an_input_that_comes_to_require_a_gradient_was_a_constant(activation):
    model = MLP([4, 2], None, activation, dtype=torch.float64)
    for layers in (model, one_by_one(model)):
        x = randn(5, 4)
        second_derivative(layers, x, lambda _, x=x: x.requires_grad_())
        assert x.grad is None


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_second_derivative_of_what_hooks_have_saved(activation):
    """Copies, taken before the parameters were changed."""
    model = MLP([4, 3, 3, 2], activation, dtype=torch.float64)

    def change(layers):
        with torch.no_grad():
            for p in layers.parameters():
                p.mul_(3)

    with saved_tensors_hooks(torch.clone, lambda t: t):
        assert_second_derivatives_are_torch_s(model, leaf(randn(5, 4)), change)


def test_transforms_and_autocast(device):
    model = MLP([4, 3, 2], "tanh", device=device)
    params = {name: p.detach() for name, p in model.named_parameters()}
    x = randn(5, 4, dtype=torch.float32, device=device)

    def loss(layers):
        return lambda params, x: functional_call(layers, params, (x,)).sum()

    got, want = (
        vmap(grad(loss(layers)), (None, 0))(params, x) for layers in (model, one_by_one(model))
    )
    for name, value in want.items():
        torch.testing.assert_close(got[name], value)
    with torch.autocast(device, torch.bfloat16):
        assert model(x).dtype == torch.bfloat16


def test_errors_are_a_layer_s():
    model = MLP([4, 3, 2])
    for x, error in (
        (randn(5, 3).float(), RuntimeError),
        (randn(5, 4), RuntimeError),
        ("x", TypeError),
    ):
        texts = []
        for layers in (model, one_by_one(model)):
            with pytest.raises(error) as caught:
                layers(x)
            texts.append(str(caught.value))
        assert texts[0] == texts[1]


def test_copies():
    model, x = MLP([4, 3, 2], "tanh"), randn(5, 4).float()
    assert_bits_equal(copy.deepcopy(model)(x).detach(), model(x).detach())
