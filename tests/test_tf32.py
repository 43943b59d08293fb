"""PyTorch's settings for products of float32 on CUDA, and gdext's heed of them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import gdext.functional as F

SETTINGS = {
    "by default": ("", False),
    "allow_tf32": ("torch.backends.cuda.matmul.allow_tf32 = True", True),
    "high": ("torch.set_float32_matmul_precision('high')", True),
    "medium": ("torch.set_float32_matmul_precision('medium')", True),
    "highest": (
        "torch.set_float32_matmul_precision('high')\ntorch.set_float32_matmul_precision('highest')",
        False,
    ),
    "fp32_precision": ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", True),
    "fp32_precision of all": ("torch.backends.fp32_precision = 'tf32'", True),
    "ieee for products": (
        "torch.backends.fp32_precision = 'tf32'\n"
        "torch.backends.cuda.matmul.fp32_precision = 'ieee'",
        False,
    ),
}


# One process for each: PyTorch refuses a mix of the old and the new way.
@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_is_read_as_torch_reads_it(name):
    setting, allowed = SETTINGS[name]
    script = f"import torch, gdext\n{setting}\nprint(torch.ops.gdext._allows_tf32())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(allowed)


@pytest.fixture
def restored_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_the_setting_does_not_reach_the_cpu(restored_precision):
    x, w = torch.randn(64, 64), torch.randn(64, 64)
    full = F.linear(x, w)
    torch.set_float32_matmul_precision("high")
    assert torch.equal(F.linear(x, w), full)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_on_cuda_forward_and_both_backwards_follow_the_setting(compiled, restored_precision):
    torch.manual_seed(0)
    x, w, u = (torch.randn(256, 256, device="cuda") for _ in range(3))

    def products(x, w, u):
        """y, dx and dw, and the gradient of a function of dx by w."""
        x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
        y = F.linear(x, w)
        dx, dw = torch.autograd.grad(y, (x, w), u, create_graph=True)
        return y, dx, dw, torch.autograd.grad(dx, w, x)[0]

    u64, x64, w64 = u.double(), x.double(), w.double()
    exact = [x64 @ w64.T, u64 @ w64, u64.T @ x64, u64.T @ x64]
    error = {}
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        run = torch.compile(products) if compiled else products
        error[precision] = [
            ((got.double() - want).norm() / want.norm()).item()
            for got, want in zip(run(x, w, u), exact, strict=True)
        ]
    if torch.cuda.get_device_capability() < (8, 0):
        assert error["high"] == error["highest"]
        return
    assert max(error["highest"]) < 2e-6
    assert all(1e-5 < e < 2e-3 for e in error["high"])
