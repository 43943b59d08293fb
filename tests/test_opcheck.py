"""opcheck of every op but sgd_, mlp_ and path_sum_: schema, fake kernel, autograd, AOT dispatch."""

import pytest
import torch
from inputs import randn, strided
from reference import ACTIVATIONS, SAVES_Z
from torch.library import opcheck

OPS = torch.ops.gdext
DTYPES = [torch.float32, torch.bfloat16]
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
LAYOUT = pytest.mark.parametrize("layout", ["contiguous", "strided"])


# The whole of opcheck compiles each call twice; on a grid of inputs the first two parts must do.
QUICK = ("test_schema", "test_autograd_registration", "test_faketensor")


def check(op, arguments, whole):
    opcheck(op, arguments, **({} if whole else {"test_utils": QUICK}))


def maker(device, dtype, layout="contiguous"):
    def make(*shape):
        tensor = randn(*shape, dtype=dtype, device=device)
        return strided(tensor) if layout == "strided" else tensor

    return make


@DTYPE
@LAYOUT
@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("activation", ["identity", "relu", "silu"])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(device, dtype, layout, batch, activation, bias):
    make = maker(device, dtype, layout)
    x, weight, b = make(*batch, 5), make(3, 5), make(3) if bias else None
    number = ACTIVATIONS.index(activation)
    whole = dtype == torch.float32 and batch == (4,) and bias
    for want_z in (False, True):
        check(OPS.linear, (x, weight, b, number, want_z), whole)
    saved = None if activation == "identity" else make(*batch, 3)
    for wanted in ([True, True, bias], [False, True, False], [True, False, bias]):
        check(OPS.linear_backward, (make(*batch, 3), saved, x, weight, number, wanted), whole)


@DTYPE
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(device, dtype, activation):
    make = maker(device, dtype)
    number = ACTIVATIONS.index(activation)
    whole = False
    _, z = OPS.linear(make(4, 5), make(3, 5), None, number, True)
    assert z.shape == ((4, 3) if activation in SAVES_Z else (0,))
    check(OPS.linear, (make(4, 5), make(3, 5), make(3), number, True), whole)


@DTYPE
@LAYOUT
@pytest.mark.parametrize("shape", [(4,), (4, 3), (0, 3)], ids=str)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_activation_double_backward(device, dtype, layout, shape, activation):
    make = maker(device, dtype, layout)
    whole = dtype == torch.float32 and shape == (4, 3)
    arguments = (make(*shape), make(*shape), make(*shape), ACTIVATIONS.index(activation))
    check(OPS.activation_double_backward, arguments, whole)


@DTYPE
@LAYOUT
@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (0, 3)], ids=str)
@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_mse(device, dtype, layout, shape, reduction, weighted):
    make = maker(device, dtype, layout)
    if 0 in shape and reduction == 1:
        pytest.skip("the mean of nothing is NaN, which opcheck takes for a difference")
    whole = dtype == torch.float32 and shape == (4, 3) and layout == "contiguous"
    x, target = make(*shape), make(*shape)
    weight = make(*shape).abs() if weighted else None
    loss, norm = OPS.mse(x, target, weight, reduction)
    dy = torch.randn_like(loss)
    check(OPS.mse, (x, target, weight, reduction), whole)
    check(OPS.mse_backward, (dy, x, target, weight, norm), whole)
    check(OPS.mse_double_backward, (make(*shape), dy, x, target, weight, norm, reduction), whole)


@DTYPE
@LAYOUT
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 5, 3), (0, 5)], ids=str)
@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(device, dtype, layout, shape, reduction, probabilities, weighted):
    make = maker(device, dtype, layout)
    if 0 in shape and reduction == 1:
        pytest.skip("the mean of nothing is NaN, which opcheck takes for a difference")
    whole = dtype == torch.float32 and shape == (4, 5) and layout == "contiguous" and weighted
    x, weight = make(*shape), make(5).abs() if weighted else None
    outer = () if len(shape) == 1 else (shape[0], *shape[2:])
    target = make(*shape).abs() if probabilities else torch.randint(0, 5, outer, device=device)
    ignore, smoothing = -100, 0.1
    loss, stats, norm = OPS.cross_entropy(x, target, weight, reduction, ignore, smoothing)
    dy = torch.randn_like(loss)
    check(OPS.cross_entropy, (x, target, weight, reduction, ignore, smoothing), whole)
    rest = (dy, x, target, weight, stats, norm)
    for wanted in ([True, probabilities], [False, probabilities]):
        check(OPS.cross_entropy_backward, (*rest, ignore, smoothing, wanted), whole)
    for u, v in (
        (make(*shape), None),
        (make(*shape), make(*shape)) if probabilities else (None, None),
    ):
        arguments = (u, v, *rest, reduction, ignore, smoothing, probabilities)
        check(OPS.cross_entropy_double_backward, arguments, whole)


def test_every_op_is_checked_here_or_in_its_own_file():
    public = {
        n.split("::")[1].split(".")[0]
        for n in torch._C._dispatch_get_all_op_names()
        if n.startswith("gdext::")
    }
    checked = {
        "linear", "linear_backward", "activation_double_backward",
        "mse", "mse_backward", "mse_double_backward",
        "cross_entropy", "cross_entropy_backward", "cross_entropy_double_backward",
        "sgd_", "mlp_", "path_sum_",
    }  # fmt: skip
    assert {name for name in public if not name.startswith("_")} == checked
