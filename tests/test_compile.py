"""torch.compile(fullgraph=True) of a training step gives eager's numbers at every batch size."""

import os
import shutil
import subprocess
import sysconfig

import pytest
import torch
import torch.nn.functional as F
from compare import assert_bits_equal
from inputs import randn

from gdext.functional import cross_entropy, mse_loss
from gdext.nn import MLP


def inductor_missing(device) -> str | None:
    """Why inductor cannot compile for `device` here, or None where it can."""
    if device == "cuda":
        try:
            import triton  # noqa: F401
        except ImportError:
            return "no triton"
        return None
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return "no C++ compiler"
    source = "#include <Python.h>\n#include <omp.h>\n"
    flags = ["-fopenmp", "-fsyntax-only", f"-I{sysconfig.get_paths()['include']}", "-xc++", "-"]
    probe = subprocess.run([compiler, *flags], input=source, text=True, capture_output=True)
    return None if probe.returncode == 0 else "the C++ compiler lacks Python.h or omp.h"


@pytest.fixture(params=["aot_eager", "inductor"])
def backend(request, device):
    missing = inductor_missing(device) if request.param == "inductor" else None
    if missing:
        pytest.skip(f"inductor: {missing}")
    torch.compiler.reset()
    yield request.param
    torch.compiler.reset()


def losses():
    yield "cross_entropy", cross_entropy
    yield (
        "cross_entropy, probabilities",
        lambda y, t: cross_entropy(y, F.one_hot(t, 3).to(y.dtype), label_smoothing=0.1),
    )
    yield "mse", lambda y, t: mse_loss(y, F.one_hot(t, 3).to(y.dtype))


def step(model, loss):
    def forward_backward(x, target):
        value = loss(model(x), target)
        value.backward()
        return value

    return forward_backward


def numbers(model, function, x, target):
    """The loss and every parameter's gradient."""
    model.zero_grad()
    value = function(x, target)
    return {"loss": value.detach(), **{n: p.grad.clone() for n, p in model.named_parameters()}}


def data(batch, device):
    return randn(batch, 6, dtype=torch.float32, device=device, seed=batch), torch.arange(
        batch, device=device
    ) % 3


@pytest.mark.parametrize(("name", "loss"), list(losses()), ids=[name for name, _ in losses()])
def test_training_step(device, backend, name, loss):
    model = MLP([6, 8, 7, 3], activation="silu" if name == "mse" else "relu").to(device)

    def forward(x, target):
        return loss(model(x), target)

    compiled = torch.compile(forward, fullgraph=True, backend=backend)
    x, target = data(5, device)
    want = numbers(model, step(model, loss), x, target)

    def compiled_step(x, target):
        value = compiled(x, target)
        value.backward()
        return value

    got = numbers(model, compiled_step, x, target)
    for key, value in want.items():
        assert_bits_equal(got[key], value, key)


def test_dynamic_batch(device, backend):
    model = MLP([6, 8, 3], activation="gelu").to(device)
    compiles = []

    def counting(graph, inputs):
        compiles.append(graph)
        from torch._dynamo.backends.registry import lookup_backend

        return lookup_backend(backend)(graph, inputs)

    forward = torch.compile(
        lambda x, t: cross_entropy(model(x), t), fullgraph=True, dynamic=True, backend=counting
    )

    def compiled_step(x, target):
        value = forward(x, target)
        value.backward()
        return value

    after_first = None
    for batch in (5, 9, 16):
        x, target = data(batch, device)
        got = numbers(model, compiled_step, x, target)
        want = numbers(model, step(model, cross_entropy), x, target)
        for key, value in want.items():
            assert_bits_equal(got[key], value, f"batch {batch}: {key}")
        # The first may restart (dynamo specializes label_smoothing); another size may not.
        after_first = after_first or len(compiles)
        assert len(compiles) == after_first
