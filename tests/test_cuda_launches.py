"""CUDA: streams, devices, determinism, sizes beyond 32 bits, and what is said when it fails."""

import subprocess
import sys

import pytest
import torch
from compare import assert_bits_equal
from conftest import cuda_missing

import gdext
from gdext import functional

pytestmark = pytest.mark.skipif(cuda_missing() is not None, reason=str(cuda_missing()))

LONG = 200_000_000  # cycles of the GPU: about a tenth of a second


def test_the_current_stream_is_used():
    """Kernels that did not wait for a stream that is busy would read what is not there yet."""
    stream = torch.cuda.Stream()
    w = torch.randn(40, 30, device="cuda")
    x, p = torch.zeros(20, 30, device="cuda"), torch.zeros(500, device="cuda")
    p.grad = torch.zeros_like(p)
    optimizer = gdext.optim.SGD([p.requires_grad_()], 1.0)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
        x.fill_(1.0)
        p.grad.fill_(3.0)
        y = functional.linear(x, w)
        loss = functional.mse_loss(y, torch.zeros_like(y))
        optimizer.step()
    stream.synchronize()
    expected = torch.ones_like(x) @ w.t()
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, expected.square().mean(), rtol=1e-4, atol=1e-4)
    assert p.tolist() == [-3.0] * 500


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_device_of_the_tensors_is_used():
    model = gdext.nn.MLP([33, 64, 10], activation="relu").to("cuda:1")
    optimizer = gdext.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x, y = torch.randn(16, 33, device="cuda:1"), torch.zeros(16, dtype=torch.long, device="cuda:1")
    with torch.cuda.device(0):
        gdext.nn.CrossEntropyLoss()(model(x), y).backward()
        optimizer.step()
        assert torch.cuda.current_device() == 0
    assert all(p.device.index == 1 and p.isfinite().all() for p in model.parameters())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_long_lists_of_two_devices():
    """Each device has memory of its own that lists are copied from."""
    params = [torch.ones(3, device=f"cuda:{i % 2}", requires_grad=True) for i in range(3000)]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = gdext.optim.SGD(params, 1.0)
    for _ in range(3):
        optimizer.step()
    assert all(p.tolist() == [-2.0] * 3 for p in params)


def test_long_lists_that_wait_for_the_device():
    """None takes the memory that an earlier one is still to be copied from; the host waits before
    there is ever so much of it."""
    lists = []
    for value in (10.0, 20.0):
        params = [torch.full((3,), value, device="cuda", requires_grad=True) for _ in range(1500)]
        for p in params:
            p.grad = torch.ones_like(p)
        lists.append((params, gdext.optim.SGD(params, 1.0)))
    torch.cuda._sleep(LONG)
    for _ in range(20):
        for _, optimizer in lists:
            optimizer.step()
    values = [torch.stack(params).unique().tolist() for params, _ in lists]
    assert values == [[-10.0], [0.0]]


def test_same_inputs_same_bits():
    x, w = torch.randn(500, 300, device="cuda"), torch.randn(200, 300, device="cuda")
    target = torch.randint(200, (500,), device="cuda")
    runs = []
    for _ in range(4):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        loss = functional.cross_entropy(functional.linear(a, b, None, "gelu"), target)
        loss.backward()
        runs.append((loss.detach(), a.grad, b.grad))
    for run in runs[1:]:
        for got, want in zip(run, runs[0], strict=True):
            assert_bits_equal(got, want)


def test_more_than_2_to_the_31_elements():
    n = 2**31 + 2049
    free, _ = torch.cuda.mem_get_info()
    if free < 8 * n:
        pytest.skip(f"needs {8 * n / 2**30:.0f} GiB of free GPU memory, {free / 2**30:.0f} are")
    p = torch.zeros(n, dtype=torch.bfloat16, device="cuda")
    g = torch.zeros_like(p)
    edges = [0, 2**31 - 1, 2**31, n - 1]
    g[edges] = torch.tensor([1.0, 2, 3, 4], dtype=torch.bfloat16, device="cuda")
    loss = functional.mse_loss(g, p, reduction="sum")
    assert loss.item() == 30.0
    p.grad = g
    gdext.optim.SGD([p.requires_grad_()], 1.0).step()
    assert p[edges].tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert p.count_nonzero().item() == 4


@pytest.fixture
def little_memory():
    """A function: from then on PyTorch may have so many bytes more than now."""

    def leave(size):
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + size) / total)

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_out_of_memory_leaves_parameters_unchanged(little_memory):
    """There is room for the momentum of the first group, and not for that of the second."""
    params = [torch.randn(2**24, device="cuda", requires_grad=True) for _ in range(2)]
    for p in params:
        p.grad = torch.randn_like(p)
    before = [p.detach().clone() for p in params]
    optimizer = gdext.optim.SGD([{"params": [p]} for p in params], 0.1, momentum=0.9)
    little_memory(100 * 2**20)
    with pytest.raises(torch.OutOfMemoryError):
        optimizer.step()
    assert not optimizer.state
    for p, b in zip(params, before, strict=True):
        assert_bits_equal(p.detach(), b)


def test_out_of_memory_in_an_op_is_an_error_of_its_own(little_memory):
    x, w = torch.randn(2**14, 4, device="cuda"), torch.randn(2**14, 4, device="cuda")
    little_memory(64 * 2**20)
    with pytest.raises(RuntimeError, match="out of memory"):
        functional.linear(x, w)
    assert functional.linear(x[:3], w[:5]).shape == (3, 5)


def in_a_process(script, **environ):
    """A process, since what it does to its CUDA context cannot be undone."""
    import os

    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environ},
    )


@pytest.mark.skipif(
    any(arch.endswith("+PTX") for arch in gdext.build_info()["cuda"]["archs"]),
    reason="gdext was built with PTX, which fits every newer device",
)
def test_no_kernel_image_for_the_device():
    """Told to use PTX alone, of which this build has none, the driver finds no image."""
    script = """if True:
        import torch, gdext
        x = torch.zeros(3).cuda()  # a copy: no kernel of PyTorch's, which would meet the same
        try:
            torch.ops.gdext.mse(x, x, None, 1)
        except RuntimeError as error:
            print(error)
    """
    done = in_a_process(script, CUDA_FORCE_PTX_JIT="1")
    archs = " ".join(gdext.build_info()["cuda"]["archs"])
    major, minor = torch.cuda.get_device_capability()
    assert "gdext: CUDA kernel mse: " in done.stdout, done.stdout + done.stderr
    assert (
        f"; gdext was compiled for {archs}, device 0 has compute capability {major}.{minor}"
    ) in done.stdout


def test_a_class_index_out_of_bounds_ends_the_context():
    script = """if True:
        import torch, gdext
        x = torch.zeros(2, 3, device="cuda")
        gdext.functional.cross_entropy(x, torch.tensor([1, 7], device="cuda"))
        torch.cuda.synchronize()
    """
    done = in_a_process(script)
    assert done.returncode != 0
    assert "Target 7 is out of bounds." in done.stdout + done.stderr
