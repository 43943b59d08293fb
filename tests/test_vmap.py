"""torch.func.vmap over the layers and losses: PyTorch's numbers, and not sample by sample."""

import itertools

import pytest
import torch
from inputs import randn
from torch import nn
from torch.func import (
    functional_call,
    grad,
    grad_and_value,
    hessian,
    jvp,
    stack_module_state,
    vmap,
)
from torch.utils._python_dispatch import TorchDispatchMode
from transforms import FEW, LOSSES, PAIRS

import gdext
import gdext.functional as G

# What vmap says where it calls an op once for each sample, having no rule for it.
pytestmark = pytest.mark.filterwarnings("error:There is a performance drop")

close = torch.testing.assert_close
SIZE = 3  # how many of everything: not a size that the shapes have too


def batched(args, dims):
    """SIZE of each argument along its dimension of ``dims``, where that is not None."""
    return tuple(
        a if d is None else torch.stack([a, a.flip(0) / 2, a.roll(1, -1)], d % (a.dim() + 1))
        for a, d in zip(args, dims, strict=True)
    )


def in_dims(count):
    """Every choice of which arguments are batched, in front; one with other dimensions."""
    yield from (d for d in itertools.product((0, None), repeat=count) if any(k == 0 for k in d))
    yield (1, -1, 1)[:count]


@pytest.mark.parametrize("name", PAIRS)
def test_in_dims(device, name):
    """y and the gradients of every argument, batched or not."""
    pair = PAIRS[name]
    args = pair.arguments(device)
    numbers = tuple(range(len(args)))
    for dims in in_dims(len(args)):

        def transforms(f, dims=dims):
            call = vmap(f, dims)
            per_sample = vmap(grad_and_value(lambda *a: f(*a).square().sum(), numbers), dims)
            shared = grad(lambda *a: call(*a).square().sum(), numbers)
            return [g(*batched(args, dims)) for g in (call, per_sample, shared)]

        got, want = transforms(pair.ours), transforms(pair.theirs)
        close(got, want, msg=lambda m, dims=dims: f"in_dims {dims}: {m}")


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(lambda f, n, dims, t: vmap(f, dims, out_dims=-1), id="out_dims"),
        pytest.param(lambda f, n, dims, t: vmap(f, dims, chunk_size=2), id="chunks"),
        pytest.param(
            lambda f, n, dims, t: vmap(hessian(lambda *a: f(*a).square().sum(), n), dims),
            id="vmap of hessian",
        ),
        pytest.param(
            lambda f, n, dims, t: lambda *a: jvp(vmap(f, dims), a, t(a)), id="jvp of vmap"
        ),
        pytest.param(
            lambda f, n, dims, t: vmap(lambda *a: jvp(f, a, t(a)), dims), id="vmap of jvp"
        ),
        pytest.param(
            lambda f, n, dims, t: (
                lambda *a: jvp(grad(lambda *a: vmap(f, dims)(*a).square().sum(), n), a, t(a))
            ),
            id="jvp of grad of vmap",
        ),
    ],
)
def test_with_other_transforms(device, name, transform):
    pair = FEW[name]
    args = pair.arguments(device)
    numbers = tuple(range(len(args)))

    def tangents(args):
        return tuple(a.sin() for a in args)

    for dims in ((0,) * len(args), (0, *[None] * (len(args) - 1))):
        values = batched(args, dims)
        got, want = (
            transform(f, numbers, dims, tangents)(*values) for f in (pair.ours, pair.theirs)
        )
        close(got, want, msg=lambda m, dims=dims: f"in_dims {dims}: {m}")


@pytest.mark.parametrize("name", FEW)
def test_nested(device, name):
    """The two levels over the same arguments, and over different ones."""
    pair = FEW[name]
    args = pair.arguments(device)
    everything, first = (0,) * len(args), (0, *[None] * (len(args) - 1))
    if name == "mse, mean":  # torch's own fails for two levels over different arguments
        pair = pair._replace(theirs=lambda x, t: (x - t).square().mean())
    for inner, outer in itertools.product((everything, first), repeat=2):
        values = batched(batched(args, inner), outer)
        got, want = (vmap(vmap(f, inner), outer)(*values) for f in (pair.ours, pair.theirs))
        close(got, want, msg=lambda m, dims=(inner, outer): f"in_dims {dims}: {m}")


@pytest.mark.parametrize("name", ["identity", "gelu", *LOSSES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_precision(device, name, dtype):
    """Of 16 bits too, what comes out is what one call for each gives, up to one rounding."""
    pair = PAIRS[name]
    args = pair.arguments(device, dtype)
    values = batched(args, (0,) * len(args))
    numbers = tuple(range(len(args)))
    both = grad_and_value(lambda *a: pair.ours(*a).float().square().sum(), numbers)
    got = vmap(both)(*values)
    each = [both(*(v[i] for v in values)) for i in range(SIZE)]
    want = tuple(torch.stack(grads) for grads in zip(*(g for g, _ in each), strict=True))
    unit = torch.finfo(dtype).eps
    close(got[1], torch.stack([loss for _, loss in each]), rtol=4 * unit, atol=4 * unit)
    for g, w in zip(got[0], want, strict=True):
        close(g, w, rtol=4 * unit, atol=4 * unit * float(w.abs().max()))


def models(activation="tanh", dtype=torch.float64, device="cpu", count=1):
    """gdext MLPs, and torch's with the same parameters."""
    pairs = []
    for _ in range(count):
        ours = gdext.nn.MLP([6, 5, 4, 3], activation, device=device, dtype=dtype)
        layers = []
        for layer in ours:
            theirs = nn.Linear(layer.in_features, layer.out_features, device=device, dtype=dtype)
            theirs.load_state_dict(layer.state_dict())
            layers += [theirs, nn.Tanh()]
        theirs = nn.Sequential(*layers[:-1])
        pairs.append((ours, theirs))
    return zip(*pairs, strict=True)


def samples(device, *leading):
    x = randn(*leading, 6, device=device)
    return x, torch.arange(x[..., 0].numel(), device=device).reshape(leading) % 3


def loss_of(model, loss):
    return lambda params, x, c: loss(functional_call(model, params, (x,)), c)


@pytest.mark.parametrize("leading", [(), (4,)], ids=str)
def test_per_sample_gradients(device, leading):
    """The usual recipe; a sample is one row or has rows of its own."""
    (ours,), (theirs,) = models(device=device)
    x, classes = samples(device, 7, *leading)
    results = []
    for model, loss in ((ours, gdext.nn.CrossEntropyLoss()), (theirs, nn.CrossEntropyLoss())):
        params = {name: p.detach() for name, p in model.named_parameters()}
        results.append(vmap(grad(loss_of(model, loss)), (None, 0, 0))(params, x, classes))
    for got, want in zip(*(r.values() for r in results), strict=True):
        assert got.shape[0] == 7
        close(got, want)


@pytest.mark.parametrize("x_dim", [None, 0, 1])
def test_ensemble(device, x_dim):
    """stack_module_state: a step of several models in one call, on the same or on own samples."""
    results = []
    torch.manual_seed(1)
    ours, theirs = models(device=device, count=SIZE)
    x, classes = samples(device, 5) if x_dim is None else samples(device, 5, SIZE)
    if x_dim == 0:
        x, classes = x.transpose(0, 1), classes.t()
    for group, loss in ((ours, gdext.nn.CrossEntropyLoss()), (theirs, nn.CrossEntropyLoss())):
        params, buffers = stack_module_state(list(group))
        assert buffers == {}
        step = vmap(grad_and_value(loss_of(group[0], loss)), (0, x_dim, x_dim))
        grads, values = step(params, x, classes)
        results.append((values, *grads.values()))
    close(*results)
    for i, model in enumerate(ours):  # the first is the models' own loss
        one = (x, classes) if x_dim is None else (x.select(x_dim, i), classes.select(x_dim, i))
        close(results[0][0][i], gdext.nn.CrossEntropyLoss()(model(one[0]), one[1]))


class Calls(TorchDispatchMode):
    """Counts the calls of gdext's ops."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.namespace == "gdext"
        return func(*args, **(kwargs or {}))


def test_calls_do_not_grow_with_the_number_of_samples():
    (model,), _ = models()
    params = {name: p.detach() for name, p in model.named_parameters()}
    loss = loss_of(model, gdext.nn.CrossEntropyLoss())
    x, classes = samples("cpu", 9)

    def layer(w):
        return G.linear(x, w, None, "gelu")

    transforms = {
        "per-sample gradients": lambda n: vmap(grad(loss), (None, 0, 0))(
            params, x[:n], classes[:n]
        ),
        "models": lambda n: vmap(layer)(params["0.weight"].expand(n, 5, 6)),
        "hessians": lambda n: vmap(hessian(lambda x: model(x).sum()))(x[:n]),
    }
    for name, transform in transforms.items():
        counts = []
        for size in (2, 9):
            with Calls() as calls:
                transform(size)
            counts.append(calls.count)
        assert counts[0] == counts[1] > 0, name


def test_errors(device):
    x, classes = randn(4, 3, device=device), torch.tensor([0, 1, 2, 1], device=device)
    if device == "cpu":
        with pytest.raises(IndexError, match=r"[Tt]arget"):
            vmap(G.cross_entropy)(x, classes + 3)
    with pytest.raises(RuntimeError, match="wanted last dimension 3"):
        vmap(lambda x: G.linear(x, x.new_zeros(5, 3)))(randn(2, 4, 4, device=device))


def test_all_samples_ignored():
    """A mean over nothing is NaN, for the sample that has nothing alone, and its gradient 0."""
    x = randn(2, 3, 4)
    classes = torch.tensor([[-100, -100, -100], [0, -100, 1]])
    got, want = (
        vmap(grad_and_value(f))(x, classes) for f in (G.cross_entropy, nn.functional.cross_entropy)
    )
    close(got, want, equal_nan=True)
    assert got[1].isnan().tolist() == [True, False]
