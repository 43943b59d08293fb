"""Arguments of gdext.FusedTrainer.run that it refuses: what it says; and nothing has changed."""

import numpy as np
import pytest
import torch
from compare import assert_bits_equal
from fused_runs import LOSSES, Pair, assert_refused, assert_unchanged, data, mlp, parts
from torch import nn

from gdext.nn import CrossEntropyLoss

SIZES = [7, 19, 12, 5]

# (arguments, error, text), instead of all samples X and Y in batches of 4
INPUTS = "inputs: wanted shape [N, 7] (in_features of the first layer), got "
X, Y = data(SIZES, 8, "cross_entropy")
ARGUMENTS = {
    "inputs' width": ({"inputs": X[:, :6]}, RuntimeError, INPUTS + "[8, 6]"),
    "inputs' other dimensions": (
        {"inputs": X[:, None, :].expand(8, 2, 7)}, RuntimeError, INPUTS + "[8, 14]",
    ),
    "one input": (
        {"inputs": X[0]}, ValueError,
        "inputs: wanted shape [N, in_features] or [N, ...], got [7]",
    ),
    "inputs' dtype": (
        {"inputs": X.float()}, RuntimeError,
        "inputs: wanted dtype float64 (that of the parameters; or uint8), got float32",
    ),
    "inputs' type": (
        {"inputs": X.numpy()}, TypeError,
        "inputs: wanted a plain torch.Tensor, got ndarray",
    ),
    "inputs with a gradient": (
        {"inputs": X.clone().requires_grad_()}, RuntimeError,
        "inputs: wanted a tensor without requires_grad, since a step gives no gradient for it; got "
        "one with. Use detach()",
    ),
    "inputs elsewhere": (
        {"inputs": X.to("meta")}, RuntimeError,
        "inputs: wanted device cpu (that of the parameters), got meta",
    ),
    "targets' number": (
        {"targets": Y[:7]}, RuntimeError,
        "targets: wanted shape [8] (one class index for each input), got [7]",
    ),
    "targets' dtype": (
        {"targets": Y.int()}, RuntimeError, "targets: wanted dtype int64, got int32",
    ),
    "class probabilities": (
        {"targets": torch.full((8, 5), 0.2, dtype=torch.float64)}, TypeError,
        "targets: wanted class indices, int64 [N], got torch.float64 [8, 5]; the fused step has no "
        "kernel for class probabilities",
    ),
    "class too large": (
        {"targets": torch.tensor([0, 1, 2, 5, 0, 0, 0, 0])}, IndexError,
        "targets: wanted a class from 0 to 4 or ignore_index -100, got 5 at position 3",
    ),
    "class below 0": (
        {"targets": torch.tensor([0, 1, 2, 4, 0, 0, 0, -1])}, IndexError,
        "targets: wanted a class from 0 to 4 or ignore_index -100, got -1 at position 7",
    ),
    "order too large": (
        {"order": torch.tensor([0, 1, 2, 3, 4, 8])}, IndexError,
        "order: wanted samples from 0 to 7, got 8 at position 5",
    ),
    "order below 0": (
        {"order": torch.tensor([0, 1, 2, 3, -1, 7])}, IndexError,
        "order: wanted samples from 0 to 7, got -1 at position 4",
    ),
    "order's dtype": (
        {"order": torch.arange(8).int()}, RuntimeError, "order: wanted dtype int64, got int32",
    ),
    "order's shape": (
        {"order": torch.arange(8).view(2, 4)}, RuntimeError,
        "order: wanted a contiguous tensor of shape [samples], got shape [2, 4]",
    ),
    "order's type": (
        {"order": [0, 1]}, TypeError,
        "order: wanted None, a torch.Generator or an int64 tensor of samples, got list",
    ),
    "no sample": (
        {"order": torch.empty(0, dtype=torch.int64)}, ValueError,
        "order: wanted at least one sample, got none",
    ),
    "batch_size 0": (
        {"batch_size": 0}, ValueError,
        "batch_size: wanted an integer from 1 to 8 (the number of inputs), got 0",
    ),
    "batch_size too large": (
        {"batch_size": 9}, ValueError,
        "batch_size: wanted an integer from 1 to 8 (the number of inputs), got 9",
    ),
    "batch_size's type": (
        {"batch_size": 2.0}, ValueError,
        "batch_size: wanted an integer from 1 to 8 (the number of inputs), got 2.0",
    ),
    "batch_size that is a bool": (
        {"batch_size": True}, ValueError,
        "batch_size: wanted an integer from 1 to 8 (the number of inputs), got the bool True",
    ),
    "batch_size that is a tensor's bool": (
        {"batch_size": torch.tensor(True)}, ValueError,
        "batch_size: wanted an integer from 1 to 8 (the number of inputs), got the bool "
        "tensor(True)",
    ),
    "numpy's batch_size too large": (
        {"batch_size": np.int64(9)}, ValueError,
        "batch_size: wanted an integer from 1 to 8 (the number of inputs), got 9",
    ),
    "no inputs": (
        {"inputs": X[:0], "targets": Y[:0]}, ValueError,
        "inputs: wanted at least one sample, got shape [0, 7]",
    ),
    "sparse inputs": (
        {"inputs": X.to_sparse()}, TypeError,
        "inputs: wanted a dense tensor, got layout torch.sparse_coo",
    ),
    "lr's length": (
        {"lr": [0.1, 0.2, 0.3]}, ValueError,
        "lr: wanted a number, or shape [2] (steps) or [2, 1] (steps, param groups), "
        "got shape [3]",
    ),
    "lr's groups": (
        {"lr": torch.ones(2, 2)}, ValueError,
        "lr: wanted a number, or shape [2] (steps) or [2, 1] (steps, param groups), "
        "got shape [2, 2]",
    ),
    "lr below 0": (
        {"lr": [0.1, -0.5]}, ValueError, "lr: wanted finite numbers >= 0, got -0.5",
    ),
    "lr NaN": (
        {"lr": float("nan")}, ValueError, "lr: wanted finite numbers >= 0, got nan",
    ),
    "input_scale": (
        {"input_scale": 2.0}, ValueError,
        "input_scale, input_shift: wanted none (they are for uint8 inputs), got 2.0, 0.0 with "
        "inputs of torch.float64",
    ),
    "input_shift": (
        {"inputs": torch.zeros(8, 7, dtype=torch.uint8), "input_shift": float("inf")}, ValueError,
        f"input_scale, input_shift: wanted finite numbers, got {1 / 255}, inf",
    ),
}  # fmt: skip


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name, begun):
    given, error, text = ARGUMENTS[name]
    pair = Pair(mlp(*SIZES), CrossEntropyLoss())
    if begun:
        pair.trainer.run(X, Y, 4)
    before = parts(pair)
    arguments = {"inputs": X, "targets": Y, "batch_size": 4, **given}
    assert_refused(lambda: pair.trainer.run(**arguments), error, text)
    assert_unchanged(pair, before)
    assert bool(pair.optimizer.state) == begun


def test_classes_of_samples_that_are_not_taken_may_be_anything():
    pair = Pair(mlp(*SIZES), CrossEntropyLoss())
    y = Y.clone()
    y[5] = 77
    pair.trainer.run(X, y, 4, order=torch.tensor([0, 1, 2, 3, 4, 6, 7]))


@pytest.mark.parametrize(
    ("targets", "error", "text"),
    [
        (
            torch.zeros(8, dtype=torch.float64), RuntimeError,
            "targets: wanted shape [8, 1] (one row for each input), got [8]",
        ),
        (
            torch.zeros(8, 1), RuntimeError,
            "targets: wanted dtype float64 (that of the parameters), got float32",
        ),
        (
            torch.zeros(8, dtype=torch.int64), RuntimeError,
            "targets: wanted dtype float64 (that of the parameters), got int64",
        ),
    ],
)  # fmt: skip
def test_mse_targets(targets, error, text):
    pair = Pair(mlp(7, 4, 1), nn.MSELoss())
    assert_refused(lambda: pair.trainer.run(X, targets, 4), error, text)


@pytest.mark.parametrize("loss", LOSSES)
def test_modes(loss):
    pair = Pair(mlp(*SIZES), LOSSES[loss]())
    x, y = data(SIZES, 8, loss)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="no autocast"):
        pair.trainer.run(x, y, 4)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"no torch\.inference_mode"):
        pair.trainer.run(x, y, 4)
    pair.assert_equal(*pair.run(x, y, 4))


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_integers_of_other_types(kind):
    pairs = [Pair(mlp(*SIZES), CrossEntropyLoss()) for _ in "12"]
    got, want = (p.trainer.run(X, Y, b) for p, b in zip(pairs, (kind(3), 3), strict=True))
    assert_bits_equal(got, want)


def test_step_on_an_empty_batch():
    pair = Pair(mlp(*SIZES), CrossEntropyLoss())
    text = "inputs: wanted at least one sample, got shape [0, 7]"
    assert_refused(lambda: pair.trainer.step(X[:0], Y[:0]), ValueError, text)


@pytest.mark.parametrize("name", ["class too large", "lr below 0", "targets' number"])
def test_a_generator_whose_order_is_refused_has_not_moved_on(name):
    given, error, text = ARGUMENTS[name]
    pair = Pair(mlp(*SIZES), CrossEntropyLoss())
    generator = torch.Generator().manual_seed(5)
    arguments = {"inputs": X, "targets": Y, "batch_size": 4, "order": generator, **given}
    before = generator.get_state()
    # The position of a bad target is that of the sample, whatever the order.
    assert_refused(lambda: pair.trainer.run(**arguments), error, text)
    assert_bits_equal(generator.get_state(), before)


@pytest.mark.parametrize("bad", ["order", "targets"])
def test_what_is_bad_a_million_samples_later_is_found_before_the_first_step(bad):
    """Beyond the samples of one native call, all of them are checked in the first."""
    pair = Pair(mlp(*SIZES), CrossEntropyLoss())
    before = parts(pair)
    count = 2**20 + 100
    order, y = torch.zeros(count, dtype=torch.int64), Y.clone()
    order[-1] = 8 if bad == "order" else 7
    y[7] = 5
    text = (
        f"order: wanted samples from 0 to 7, got 8 at position {count - 1}"
        if bad == "order"
        else "targets: wanted a class from 0 to 4 or ignore_index -100, got 5 at position 7"
    )
    assert_refused(lambda: pair.trainer.run(X, y, 8, order=order), IndexError, text)
    assert_unchanged(pair, before)
    assert not pair.optimizer.state
