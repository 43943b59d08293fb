"""The matrix products of `linear` on the CPU: tile edges, instruction sets, numbers of threads.

The inputs are small integers, so that every product and sum is exact: any two ways of adding up
must give the same bits.
"""

import hashlib
import itertools
import os
import random
import subprocess
import sys

import pytest
import torch
from compare import assert_bits_equal
from inputs import DTYPES, strided

import gdext

# Around the register tiles (rows 4, 6, 12; columns 2 to 64), and the blocks of k (64, 320).
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 17, 23, 24, 25, 37, 49)
COLUMNS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 129)
DEPTHS = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130, 319, 320, 321, 645)
# A block of rows, of columns.
LARGE = ((481, 33, 70), (490, 1030, 3), (3, 1030, 330), (25, 1057, 65), (970, 66, 321))

LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "transposed": lambda t: t.t().contiguous().t(),
    "strided": strided,
}


def integers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randint(-2, 3, shape).to(dtype)


def products(x: torch.Tensor, w: torch.Tensor, dz: torch.Tensor) -> list[torch.Tensor]:
    """x w^T, dz w and dz^T x, for x [B,I], w [O,I] and dz [B,O]."""
    y = torch.ops.gdext.linear(x, w, None, 0, False)[0]
    dx, dw, _ = torch.ops.gdext.linear_backward(dz, None, x, w, 0, [True, True, False])
    return [y, dx, dw]


def shapes(count: int) -> list[tuple[int, int, int]]:
    """(B, O, I): `count` of all that the edges make, each edge in each place at least once."""
    drawn = random.Random(1)
    edges = [tuple(map(drawn.choice, (ROWS, COLUMNS, DEPTHS))) for _ in range(count)]
    edges += [(m, 33, 17) for m in ROWS] + [(13, n, 33) for n in COLUMNS]
    edges += [(13, 33, k) for k in DEPTHS]
    return [tuple(drawn.sample(shape, 3)) for shape in (*edges, *LARGE)] + list(LARGE)


def assert_products_are_exact(B: int, O: int, I: int, dtype: torch.dtype, layout: str) -> None:
    x, w, dz = integers(B, I), integers(O, I), integers(B, O)
    exact = [x.double() @ w.double().t(), dz.double() @ w.double(), dz.double().t() @ x.double()]
    operands = [LAYOUTS[layout](t.to(dtype)) for t in (x, w, dz)]
    for name, got, want in zip(("y", "dx", "dw"), products(*operands), exact, strict=True):
        assert_bits_equal(got, want.to(dtype), f"{name} of B, O, I = {B}, {O}, {I}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_edges(dtype, layout):
    for shape in shapes(100):
        assert_products_are_exact(*shape, dtype, layout)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bias_and_activation(dtype, activation):
    for B, O, I in shapes(50):
        x, w, b = integers(B, I), integers(O, I), integers(O)
        want = x.double() @ w.double().t() + b
        want = want.relu() if activation else want
        got = gdext.functional.linear(*(t.to(dtype) for t in (x, w, b)), activation)
        assert_bits_equal(got, want.to(dtype), f"y of B, O, I = {B}, {O}, {I}")


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (40, 70, 0)], ids=str)
def test_empty(shape):
    assert_products_are_exact(*shape, torch.float32, "contiguous")


def test_same_bits_for_any_number_of_threads():
    threads = torch.get_num_threads()
    try:
        for B, O, I in ((1, 512, 784), (7, 700, 300), (100, 300, 700), (300, 64, 330)):
            operands = torch.randn(B, I), torch.randn(O, I), torch.randn(B, O)
            results = []
            for count in (1, 2, 3, 5):
                torch.set_num_threads(count)
                results.append(products(*operands))
            for other in results[1:]:
                for got, want in zip(other, results[0], strict=True):
                    assert_bits_equal(got, want, f"B, O, I = {B}, {O}, {I}")
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "shape", [(1024, 1024, 1024), (4096, 512, 784), (512, 2048, 1000)], ids=str
)
def test_large_products_times_a_random_vector(shape):
    # Freivalds: C v = A (B v) for a random v fails for a wrong C with probability 1/2 at least.
    B, O, I = shape
    x, w, dz = integers(B, I), integers(O, I), integers(B, O)
    for name, got, left, right in zip(
        ("y", "dx", "dw"), products(x, w, dz), (x, dz, dz.t()), (w.t(), w, x), strict=True
    ):
        v = torch.randint(0, 2, (right.shape[1], 8)).double()
        want = left.double() @ (right.double() @ v)
        assert_bits_equal(got.double() @ v, want, name)


def trained(dtype, B):
    """The parameters after some FusedTrainer steps whose every number is a small integer or such a
    one divided by a power of two."""
    model = gdext.nn.MLP([70, 65, 33, 3], dtype=dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randint(-1, 2, p.shape) * (torch.rand(p.shape) < 0.2))
    optimizer = gdext.optim.SGD(model.parameters(), lr=2**-6)
    trainer = gdext.FusedTrainer(model, optimizer, torch.nn.MSELoss(reduction="sum"))
    x = torch.randint(-1, 2, (B, 70)).to(dtype)
    y = torch.randint(-2, 3, (B, 3)).to(dtype)
    loss = trainer.step(x, y)
    return [loss, *(p.detach() for p in model.parameters())]


def digest(isa: str) -> str:
    """One number for the bits of many products and some training, on the set `isa`."""
    assert gdext.build_info()["cpu"]["in_use"] == isa
    torch.manual_seed(0)
    hashed = hashlib.sha256()
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    for (B, O, I), dtype in itertools.product(shapes(40), dtypes):
        x, w, dz = (integers(*s, dtype=dtype) for s in ((B, I), (O, I), (B, O)))
        for c in products(x, w, dz):
            hashed.update(c.double().numpy().tobytes())
    for dtype, B in itertools.product(dtypes[:2], (1, 5, 8, 9, 40)):
        for tensor in trained(dtype, B):
            hashed.update(tensor.double().numpy().tobytes())
    return hashed.hexdigest()


def test_all_instruction_sets_agree():
    code = "import sys, test_gemm; print(test_gemm.digest(sys.argv[1]))"
    digests = {}
    for isa in gdext.build_info()["cpu"]["compiled"]:
        environment = {**os.environ, "GDEXT_CPU_ISA": isa}
        environment["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), *sys.path])
        run = subprocess.run(
            [sys.executable, "-c", code, isa], env=environment, capture_output=True, text=True
        )
        if "this processor does not have that instruction set" in run.stderr:
            continue
        assert run.returncode == 0, run.stderr
        digests[isa] = run.stdout
    assert len(digests) > 0 and len(set(digests.values())) == 1, digests
