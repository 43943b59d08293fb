# ruff: noqa: E501 (the tables below: one case, one line)
"""Bad calls: the type of the error is PyTorch's, its text names what is wrong, nothing is changed."""

import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import gdext

F = torch.nn.functional
G = gdext.functional


def t(*shape, dtype=torch.float32, device="cpu"):
    return torch.ones(shape, dtype=dtype, device=device)


def index(*values, dtype=torch.int64, device="cpu"):
    return torch.tensor(values, dtype=dtype, device=device)


@dataclass(frozen=True)
class Bad:
    """A call that must fail: arguments made for a device, and what its message must contain."""

    function: str
    arguments: object
    message: tuple[str, ...]
    options: dict | None = None
    # Where PyTorch raises nothing, or an error of another type on purpose: the types allowed.
    types: tuple[type[Exception], ...] = ()


def names(*parts):
    return tuple(rf"(?<![0-9A-Za-z_]){re.escape(str(p))}(?![0-9A-Za-z_])" for p in parts)


LINEAR = {
    "in_features": Bad("linear", lambda d: (t(3, 5, device=d), t(2, 4, device=d)), names("input", 5, 4)),
    "bias size": Bad("linear", lambda d: (t(3, 4, device=d), t(2, 4, device=d), t(3, device=d)), names("bias", 2, 3)),
    "weight 3-D": Bad("linear", lambda d: (t(3, 4, device=d), t(2, 4, 1, device=d)), names("weight", "[2, 4, 1]")[:1]),
    "weight 0-D": Bad("linear", lambda d: (t(3, 4, device=d), t(device=d)), names("weight")),
    "input 0-D": Bad("linear", lambda d: (t(device=d), t(2, 4, device=d)), names("input", "0-dimensional")),
    "1-D weight with bias": Bad("linear", lambda d: (t(3, 4, device=d), t(4, device=d), t(1, device=d)), names("bias")),
    "weight dtype": Bad("linear", lambda d: (t(3, 4, device=d), t(2, 4, dtype=torch.float64, device=d)), names("weight", "float32", "float64")),
    "bias dtype": Bad("linear", lambda d: (t(3, 4, device=d), t(2, 4, device=d), t(2, dtype=torch.float16, device=d)), names("bias", "float32", "float16")),
    "weight on meta": Bad("linear", lambda d: (t(3, 4, device=d), t(2, 4, device="meta")), names("weight", "meta"), types=(RuntimeError, NotImplementedError)),
    "bias on meta": Bad("linear", lambda d: (t(3, 4, device=d), t(2, 4, device=d), t(2, device="meta")), names("bias", "meta")),
    "input a list": Bad("linear", lambda d: ([1.0], t(2, 4, device=d)), names("input", "list")),
    "weight None": Bad("linear", lambda d: (t(3, 4, device=d), None), names("weight", "NoneType")),
    "bias a number": Bad("linear", lambda d: (t(3, 4, device=d), t(2, 4, device=d), 3.0), names("bias", "float")),
    "integers": Bad("linear", lambda d: (t(3, 4, dtype=torch.int64, device=d), t(2, 4, dtype=torch.int64, device=d)), names("input", "int64"), types=(RuntimeError, NotImplementedError)),
    "complex": Bad("linear", lambda d: (t(3, 4, dtype=torch.complex64, device=d), t(2, 4, dtype=torch.complex64, device=d)), names("input", "complex64"), types=(RuntimeError, NotImplementedError)),
    "sparse input": Bad("linear", lambda d: (t(3, 4, device=d).to_sparse(), t(2, 4, device=d)), (*names("input"), "sparse|dense|layout"), types=(RuntimeError, NotImplementedError)),
    "sparse weight": Bad("linear", lambda d: (t(3, 4, device=d), t(2, 4, device=d).to_sparse()), (*names("weight"), "sparse|dense|layout"), types=(RuntimeError, NotImplementedError)),
    "activation": Bad("linear", lambda d: (t(3, 4, device=d), t(2, 4, device=d)), names("activation", "rellu", "relu"), {"activation": "rellu"}, (ValueError,)),
    "activation a module": Bad("linear", lambda d: (t(3, 4, device=d), t(2, 4, device=d)), names("activation", "relu"), {"activation": nn.ReLU()}, (ValueError, TypeError)),
}  # fmt: skip
MSE = {
    "shape": Bad("mse_loss", lambda d: (t(3, 4, device=d), t(3, 5, device=d)), names(4, 5)),
    "reduction": Bad("mse_loss", lambda d: (t(3, device=d), t(3, device=d)), names("avg", "reduction"), {"reduction": "avg"}),
    "weight size": Bad("mse_loss", lambda d: (t(3, 4, device=d), t(3, 4, device=d), None, None, "mean", t(4, device=d)), ("(?i)weight", "input")),
    "integers": Bad("mse_loss", lambda d: (t(3, dtype=torch.int64, device=d), t(3, dtype=torch.int64, device=d)), names("input", "int64") ),
    "target on meta": Bad("mse_loss", lambda d: (t(3, device=d), t(3, device="meta")), names("target", "meta")),
    "sparse target": Bad("mse_loss", lambda d: (t(3, 4, device=d), t(3, 4, device=d).to_sparse()), (*names("target"), "sparse|dense|layout"), types=(RuntimeError, NotImplementedError)),
    "target a number": Bad("mse_loss", lambda d: (t(3, device=d), 3.0), (".",), types=(TypeError, AttributeError)),
}  # fmt: skip
CROSS_ENTROPY = {
    "index too large": Bad("cross_entropy", lambda d: (t(3, 4), index(0, 1, 12)), (r"^Target 12 is out of bounds\.",)),
    "index C": Bad("cross_entropy", lambda d: (t(3, 4), index(0, 1, 4)), (r"^Target 4 is out of bounds\.",)),
    "index negative": Bad("cross_entropy", lambda d: (t(3, 4), index(0, -1, 2)), (r"^Target -1 is out of bounds\.",)),
    "index with d1": Bad("cross_entropy", lambda d: (t(1, 4, 2), index(0, 9).reshape(1, 2)), (r"^Target 9 is out of bounds\.",)),
    "batch size": Bad("cross_entropy", lambda d: (t(3, 4, device=d), index(0, 1, device=d)), names("batch_size", 3, 2)),
    "int32 target": Bad("cross_entropy", lambda d: (t(2, 4, device=d), index(0, 1, dtype=torch.int32, device=d)), ("target", "(?i)int32|int")),
    "bool target": Bad("cross_entropy", lambda d: (t(2, 4, device=d), index(True, False, dtype=torch.bool, device=d)), ("target", "(?i)bool")),
    "probabilities shape": Bad("cross_entropy", lambda d: (t(3, 4, device=d), t(3, 5, device=d)), names("target", 4, 5)),
    "indices of input's shape": Bad("cross_entropy", lambda d: (t(3, 4, device=d), t(3, 4, dtype=torch.int64, device=d)), names("target")),
    "d1": Bad("cross_entropy", lambda d: (t(3, 4, 5, device=d), t(3, 4, dtype=torch.int64, device=d)), names("target", 4, 5)),
    "extra target dimension": Bad("cross_entropy", lambda d: (t(3, 4, 5, device=d), t(3, 5, 1, dtype=torch.int64, device=d)), names("target", 5, 1)),
    "weight size": Bad("cross_entropy", lambda d: (t(3, 4, device=d), index(0, 1, 2, device=d), t(3, device=d)), names("weight", 4, 3)),
    "weight 2-D": Bad("cross_entropy", lambda d: (t(3, 4, device=d), index(0, 1, 2, device=d), t(1, 4, device=d)), names("weight", 4)),
    "weight dtype": Bad("cross_entropy", lambda d: (t(3, 4, device=d), index(0, 1, 2, device=d), t(4, dtype=torch.float64, device=d)), ("weight", "(?i)float32|float", "(?i)float64|double")),
    "label_smoothing above 1": Bad("cross_entropy", lambda d: (t(3, 4, device=d), index(0, 1, 2, device=d)), names("label_smoothing", "1.5"), {"label_smoothing": 1.5}),
    "label_smoothing negative": Bad("cross_entropy", lambda d: (t(3, 4, device=d), index(0, 1, 2, device=d)), ("label_smoothing", "-0.1"), {"label_smoothing": -0.1}, (RuntimeError, ValueError)),
    "label_smoothing NaN": Bad("cross_entropy", lambda d: (t(3, 4, device=d), index(0, 1, 2, device=d)), ("label_smoothing", "nan"), {"label_smoothing": float("nan")}, (RuntimeError, ValueError)),
    "reduction": Bad("cross_entropy", lambda d: (t(3, 4, device=d), index(0, 1, 2, device=d)), names("avg", "reduction"), {"reduction": "avg"}),
    "ignore_index with probabilities": Bad("cross_entropy", lambda d: (t(3, 4, device=d), t(3, 4, device=d)), names("ignore_index"), {"ignore_index": 2}),
    "integer logits": Bad("cross_entropy", lambda d: (t(3, 4, dtype=torch.int64, device=d), index(0, 1, 2, device=d)), names("input", "int64"), types=(RuntimeError, NotImplementedError)),
    "input 0-D": Bad("cross_entropy", lambda d: (t(device=d), torch.tensor(0, device=d)), names("input")),
    "target on meta": Bad("cross_entropy", lambda d: (t(3, 4, device=d), index(0, 1, 2, device="meta")), names("target", "meta")),
    "sparse logits": Bad("cross_entropy", lambda d: (t(3, 4, device=d).to_sparse(), index(0, 1, 2, device=d)), (*names("input"), "sparse|dense|layout"), types=(RuntimeError, NotImplementedError)),
    "no classes": Bad("cross_entropy", lambda d: (t(3, 0), index(0, 0, 0)), (r"^Target 0 is out of bounds\.",)),
    "target a list": Bad("cross_entropy", lambda d: (t(3, 4, device=d), [0, 1, 2]), (".",), types=(TypeError, AttributeError)),
}  # fmt: skip
CASES = [
    pytest.param(bad, id=f"{bad.function}: {label}")
    for group in (LINEAR, MSE, CROSS_ENTROPY)
    for label, bad in group.items()
]


def bits(tensor):
    tensor = tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
    return (
        None if tensor.is_meta else tensor.cpu().contiguous().reshape(-1).view(torch.uint8).clone()
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bad", CASES)
def test_bad_call(device, bad):
    arguments = bad.arguments(device)
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.is_leaf and tensor is not tensors[-1]:
            tensor.requires_grad_()
    before = [bits(a) for a in tensors]
    options = bad.options or {}
    types = bad.types
    if not types:
        with pytest.raises(Exception) as theirs:  # noqa: PT011 (whatever PyTorch raises)
            getattr(F, bad.function)(*arguments, **options)
        types = (theirs.type,)
    with pytest.raises(types) as ours:
        getattr(G, bad.function)(*arguments, **options)
    assert not bad.types or isinstance(ours.value, types)
    if not bad.types:
        assert ours.type is types[0]
    text = str(ours.value)
    missing = [part for part in bad.message if not re.search(part, text)]
    assert not missing, f"{text!r} lacks {missing}"
    assert "originally from" not in text and "Exception raised from" not in text
    for tensor, want in zip(tensors, before, strict=True):
        got = bits(tensor)
        assert got is None or torch.equal(got, want)
        assert not tensor.requires_grad or tensor.grad is None


@pytest.mark.parametrize("target", ["device", "cpu"])
def test_devices_differ(target):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    a, b = ("cuda", "cpu") if target == "cpu" else ("cpu", "cuda")
    for call in (
        lambda: G.linear(t(3, 4, device=a), t(2, 4, device=b)),
        lambda: G.mse_loss(t(3, device=a), t(3, device=b)),
        lambda: G.cross_entropy(t(1, 4, device=a), index(0, device=b)),
    ):
        with pytest.raises(RuntimeError, match="cuda") as error:
            call()
        assert "cpu" in str(error.value)


@pytest.mark.parametrize("sizes", [[], [3], [3, 0], [3, -1, 2], [3, 2.5], [3, "2"]], ids=str)
def test_mlp_sizes(sizes):
    with pytest.raises(ValueError, match=r"sizes: wanted .*got " + re.escape(str(sizes))):
        gdext.nn.MLP(sizes)


@pytest.mark.parametrize("argument", ["activation", "output_activation"])
def test_mlp_activation(argument):
    with pytest.raises(ValueError, match=r"activation.*'rellu'"):
        gdext.nn.MLP([3, 4, 2], **{argument: "rellu"})


def test_layer_activation():
    with pytest.raises(ValueError, match=r"activation.*'rellu'"):
        gdext.nn.Linear(3, 4, activation="rellu")


def test_parameters_survive_a_bad_step():
    model = gdext.nn.MLP([4, 8, 3])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for x, target in ((t(5, 3), index(0, 1, 2, 0, 1)), (t(5, 4), index(0, 1, 2, 0, 3))):
        with pytest.raises((RuntimeError, IndexError)):
            G.cross_entropy(model(x), target).backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.grad is None


@pytest.mark.parametrize("number", [-1, 11, 1000])
def test_op_rejects_unknown_numbers(device, number):
    with pytest.raises((RuntimeError, ValueError), match=f"activation.*{number}"):
        torch.ops.gdext.linear(t(3, 4, device=device), t(2, 4, device=device), None, number, True)
    with pytest.raises((RuntimeError, ValueError), match=f"reduction.*{number}"):
        torch.ops.gdext.mse(t(3, device=device), t(3, device=device), None, number)
