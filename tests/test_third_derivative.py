"""Differentiating a third time raises: it must not give a gradient with a part left out."""

import pytest
import torch
from inputs import leaf, randn

from gdext.functional import cross_entropy, linear, mse_loss


def _functions(device):
    weight, target = (leaf(randn(*shape, device=device)) for shape in ((2, 4), (3, 4)))
    classes = torch.tensor([0, 1, 3], device=device)
    return {
        "identity": lambda x: linear(x, weight).pow(3).sum(),
        "tanh": lambda x: linear(x, weight, None, "tanh").sum(),
        "mse": lambda x: mse_loss(x.square(), target),
        "cross_entropy": lambda x: cross_entropy(x, classes),
        "probabilities": lambda x: cross_entropy(x, target),
    }


@pytest.mark.parametrize("name", _functions("cpu"))
@pytest.mark.parametrize("power", [1, 2])  # 1: the second backward's cotangent is a constant
@pytest.mark.parametrize("inputs", [True, False], ids=["grad", "backward"])
def test_third_derivative_raises(device, name, power, inputs):
    x = leaf(randn(3, 4, device=device))
    (first,) = torch.autograd.grad(_functions(device)[name](x), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(power).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice, not a third time"):
        second.square().sum().backward(inputs=[x] if inputs else None)
