"""The matrix products of `linear` on a GPU, at sizes at which each of its kernels is chosen
(csrc/cuda/gemm.cuh); without one tests/cuda_on_cpu/test_gemm.cpp tests the same kernels.

The inputs are small integers, whose sums float32 holds: the result must be exact, but for the
rounding of a 16-bit one.
"""

import pytest
import torch
from compare import assert_bits_equal
from inputs import DTYPES
from test_gemm import products
from torch.profiler import ProfilerActivity, profile

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

# (B, O, I): whole tiles, dw shared by blocks of a cluster; tiles that end early, along k too; rows
# that are not aligned to 16 bytes; several waves of tiles; few tiles; few that
# blocks of a cluster share; what wgmma cannot read.
SHAPES = [
    (4096, 1024, 1024),
    (4100, 1048, 1016),
    (4097, 1031, 1027),
    (2056, 4104, 520),
    (300, 200, 136),
    (128, 512, 784),
    (64, 64, 4096),
    (4096, 1020, 1020),
]


@pytest.fixture(autouse=True)
def restored_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_are_exact(dtype, precision, shape):
    torch.set_float32_matmul_precision(precision)
    B, O, I = shape
    generator = torch.Generator("cuda").manual_seed(B)
    x, w, dz = (
        torch.randint(-2, 3, size, generator=generator, device="cuda").to(dtype)
        for size in ((B, I), (O, I), (B, O))
    )
    of_x, of_w, of_dz = x.double(), w.double(), dz.double()
    exact = [of_x @ of_w.t(), of_dz @ of_w, of_dz.t() @ of_x]
    for name, got, want in zip(("y", "dx", "dw"), products(x, w, dz), exact, strict=True):
        assert_bits_equal(got, want.to(dtype), f"{name} of B, O, I = {B}, {O}, {I}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_wgmma_multiplies_large_products(dtype):
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("has no wgmma")
    torch.set_float32_matmul_precision("high")
    B, O, I = SHAPES[0]
    sizes = [(B, I), (O, I), (B, O)]
    x, w, dz = (torch.randn(size, device="cuda").to(dtype) for size in sizes)
    products(x, w, dz)
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        products(x, w, dz)
        torch.cuda.synchronize()
    names = [event.name for event in recorded.events() if "gemm" in event.name]
    assert len(names) == 3 and all("gemm_wgmma" in name for name in names), names


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_tf32_rounds_to_nearest(shape):
    """x w^T of a w that has ones on its diagonal alone."""
    torch.set_float32_matmul_precision("high")
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("has no tf32")
    B, O, I = shape
    x = torch.randn(B, I, device="cuda")
    w = torch.zeros(O, I, device="cuda")
    w[torch.arange(min(O, I)), torch.arange(min(O, I))] = 1
    # To the multiple of 2^13 of the bits that is nearest, ties away from zero.
    rounded = ((x.view(torch.int32) + (1 << 12)) & -(1 << 13)).view(torch.float32)
    y = torch.ops.gdext.linear(x, w, None, 0, False)[0]
    want = torch.zeros(B, O, device="cuda")
    want[:, : min(O, I)] = rounded[:, : min(O, I)]
    assert_bits_equal(y, want, "y")
