"""SGD on tensors of any layout, complex ones and mixed dtypes."""

import pytest
import torch
from compare import assert_bits_equal
from sgd import DTYPES, clone_params, make_gradients, make_params, run
from torch import nn

import gdext

# Memory layouts.


def transposed(shape, device):
    return torch.randn(shape[::-1], device=device).permute(*range(len(shape))[::-1])


def every_other(shape, device):
    return torch.randn(*shape[:-1], 2 * shape[-1], device=device)[..., ::2]


def channels_last(shape, device):
    return torch.randn(shape, device=device).to(memory_format=torch.channels_last)


LAYOUTS = {
    "contiguous": lambda shape, device: torch.randn(shape, device=device),
    "transposed": transposed,
    "every other": every_other,
    "channels last": channels_last,
}


@pytest.mark.parametrize("buffer_layout", [None, *LAYOUTS])
@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("param_layout", LAYOUTS)
def test_layouts(device, param_layout, grad_layout, buffer_layout):
    shape = (2, 3, 4, 5)
    p = LAYOUTS[param_layout](shape, device)
    p = nn.Parameter(p)
    peer = nn.Parameter(p.detach().contiguous().clone())
    strides = p.stride()
    storage = p.detach().as_strided((p.untyped_storage().nbytes() // 4,), (1,), 0)
    gaps = storage.clone()
    optimizer, reference = (
        make([q], 0.1, momentum=0.9) for make, q in ((gdext.optim.SGD, p), (torch.optim.SGD, peer))
    )
    for step in range(3):
        g = LAYOUTS[grad_layout](shape, device)
        p.grad, peer.grad = g, g.contiguous().clone()
        if step == 1 and buffer_layout:
            laid_out = LAYOUTS[buffer_layout](shape, device)
            laid_out.copy_(optimizer.state[p]["momentum_buffer"])
            optimizer.state[p]["momentum_buffer"] = laid_out
        optimizer.step()
        reference.step()
    assert p.stride() == strides
    torch.testing.assert_close(p.detach(), peer.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        optimizer.state[p]["momentum_buffer"],
        reference.state[peer]["momentum_buffer"],
        rtol=1e-6,
        atol=1e-6,
    )
    untouched = torch.ones_like(storage, dtype=torch.bool)
    untouched.as_strided(shape, strides).fill_(False)
    assert_bits_equal(storage[untouched], gaps[untouched], name="memory between the elements")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unscaled_gradient_is_stored_back_in_any_layout(device, layout):
    p = nn.Parameter(torch.randn(2, 3, 4, 5, device=device))
    p.grad = LAYOUTS[layout](p.shape, device)
    want = p.grad / 8
    optimizer = gdext.optim.SGD([p], 0.1)
    optimizer.grad_scale = torch.tensor(8.0, device=device)
    optimizer.found_inf = torch.tensor(0.0, device=device)
    optimizer.step()
    assert_bits_equal(p.grad, want)


def test_expanded_gradient(device):
    p = nn.Parameter(torch.zeros(3, 4, device=device))
    p.grad = torch.ones((), device=device).expand(3, 4)
    gdext.optim.SGD([p], 1.0).step()
    assert_bits_equal(p.detach(), -torch.ones(3, 4, device=device))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("conjugate", [False, True], ids=["", "conjugate"])
def test_complex_parameters(device, dtype, conjugate):
    p = nn.Parameter(torch.randn(3, 4, dtype=dtype, device=device))
    q = nn.Parameter(p.detach().clone())
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
    optimizer, reference = gdext.optim.SGD([p], **options), torch.optim.SGD([q], **options)
    for _ in range(3):
        g = torch.randn_like(p)
        p.grad, q.grad = (g.conj(), g.conj()) if conjugate else (g, g)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        *(o.state_dict()["state"][0]["momentum_buffer"] for o in (optimizer, reference))
    )


def test_mixed_dtypes_in_one_group(device):
    """As each dtype by itself, whatever the order."""
    params = [p for _ in range(2) for dtype in DTYPES for p in make_params(device, dtype)]
    apart, gradients = clone_params(params), make_gradients(params, 2)
    run(gdext.optim.SGD(params, 0.1, momentum=0.9), params, gradients)
    for dtype in DTYPES:
        mine = [i for i, p in enumerate(apart) if p.dtype == dtype]
        own = [apart[i] for i in mine]
        optimizer = gdext.optim.SGD(own, 0.1, momentum=0.9)
        run(optimizer, own, [[of_step[i] for i in mine] for of_step in gradients])
    for p, q in zip(params, apart, strict=True):
        assert_bits_equal(p.detach(), q.detach())


@pytest.mark.parametrize("lazy", [torch.conj, torch._neg_view, lambda z: z.conj().imag])
@pytest.mark.parametrize("scale", [None, 2.0])
def test_gradient_that_is_a_lazy_view(device, lazy, scale):
    """Conjugate and negative views: their memory holds other numbers than they show."""
    g = lazy(torch.randn(3, 4, dtype=torch.complex64, device=device))
    want = g.clone() / (scale or 1)
    p = nn.Parameter(torch.zeros_like(want))
    p.grad = g
    optimizer = gdext.optim.SGD([p], 1.0)
    if scale:
        optimizer.grad_scale = torch.tensor(scale, device=device)
    optimizer.step()
    torch.testing.assert_close(p.detach(), -want)
    torch.testing.assert_close(p.grad, want)
