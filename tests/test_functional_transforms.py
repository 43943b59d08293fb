"""gdext under torch.autocast, torch.func and on the meta device: as torch.nn.functional's."""

import pytest
import torch
import torch.nn.functional as F
from inputs import randn
from torch.func import functional_call, grad, jacrev, vmap

import gdext.functional as G
from gdext.nn import Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_autocast(device, dtype):
    """dtype: what the layer is fed, by a convolution for instance."""
    x, w, b = (randn(*s, dtype=torch.float32, device=device) for s in ((3, 4), (5, 4), (5,)))
    y, target = randn(3, 5, dtype=torch.float32, device=device), torch.tensor([0, 1, 4]).to(device)
    if dtype == torch.float64:
        x, w, b, y = (t.double() for t in (x, w, b, y))
    with torch.autocast(device, torch.bfloat16):
        pairs = [
            [f.linear(x.to(dtype), w, b), f.mse_loss(x.to(dtype), x), f.mse_loss(y, y.to(dtype))]
            + [f.cross_entropy(y.to(dtype), t) for t in (target, y.softmax(1))]
            for f in (G, F)
        ]
    for got, want in zip(*pairs, strict=True):
        torch.testing.assert_close(got, want)  # the dtype too


def test_meta_tensors_of_the_wrong_shape():
    layer = Linear(4, 5, device="meta")
    assert layer(torch.empty(3, 4, device="meta")).shape == (3, 5)
    with pytest.raises(RuntimeError, match="wanted last dimension 4"):
        layer(torch.empty(3, 7, device="meta"))


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_torch_func(device, activation):
    layer = Linear(4, 5, activation=activation, device=device, dtype=torch.float64)
    params = {name: p.detach() for name, p in layer.named_parameters()}
    x, classes = randn(3, 4, device=device), torch.tensor([0, 1, 4], device=device)
    act = {None: lambda z: z, "relu": F.relu, "gelu": F.gelu}[activation]

    def ours(p, x):
        return functional_call(layer, p, (x,))

    def theirs(p, x):
        return act(F.linear(x, p["weight"], p["bias"]))

    def transforms(f, library):
        def loss(p, x, c):
            return library.cross_entropy(f(p, x), c) + library.mse_loss(f(p, x), f(p, x) * 2)

        per_sample = vmap(grad(loss), (None, 0, 0))(params, x, classes)
        hessian = jacrev(jacrev(lambda x: f(params, x).square().sum()))(x[0])
        return vmap(lambda x: f(params, x))(x), jacrev(f, 1)(params, x[0]), per_sample, hessian

    torch.testing.assert_close(transforms(ours, G), transforms(theirs, F))
