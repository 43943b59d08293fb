"""gdext.FusedTrainer on each device present: the steps of the ordinary loop, whatever form they
take there (csrc/cuda/mlp_forms.cuh)."""

import copy

import pytest
import torch
from compare import assert_bits_equal
from fused_runs import LOSSES, data, loop, torch_mlp

import gdext

SGD = [
    {"lr": 0.1},
    {"lr": 0.001, "maximize": True},
    {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"lr": 0.001, "momentum": 0.8, "dampening": 0.3, "maximize": True},
]


def make(sizes, loss, options, device, dtype):
    """A trainer on `device`, and a model, optimizer and loss like its own in float64 on the CPU."""
    torch.manual_seed(3)
    model = torch_mlp(*sizes).to(device, dtype)
    twin = copy.deepcopy(model).cpu().double()
    optimizer = gdext.optim.SGD(model.parameters(), **options)
    trainer = gdext.FusedTrainer(model, optimizer, LOSSES[loss]())
    return trainer, (twin, torch.optim.SGD(twin.parameters(), **options), LOSSES[loss]())


def wide(t):
    return t.double() if t.is_floating_point() else t


def state(trainer):
    momenta = [s["momentum_buffer"] for s in trainer.optimizer.state.values() if s]
    return [p.detach() for p in trainer.model.parameters()] + momenta


def check_run(sizes, loss, options, device, dtype, batch_size, tolerance, samples=50):
    trainer, (twin, optimizer, twin_loss) = make(sizes, loss, options, device, dtype)
    x, y = data(sizes, samples, loss, dtype)
    order = torch.randperm(samples)
    got = trainer.run(x.to(device), y.to(device), batch_size, order=order.to(device))
    want = loop(twin, optimizer, twin_loss, x.double(), wide(y), batch_size, order)
    assert got.device.type == device
    torch.testing.assert_close(got.cpu(), want, rtol=tolerance, atol=tolerance)
    momenta = [s.get("momentum_buffer") for s in optimizer.state.values()]
    theirs = [p.detach() for p in twin.parameters()] + [m for m in momenta if m is not None]
    for mine, other in zip(state(trainer), theirs, strict=True):
        torch.testing.assert_close(mine.cpu().double(), other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", SGD)
@pytest.mark.parametrize("batch_size", [1, 8, 17])
@pytest.mark.parametrize("loss", LOSSES)
def test_float64(device, loss, batch_size, options):
    check_run([7, 19, 12, 5], loss, options, device, torch.float64, batch_size, 1e-11)


@pytest.mark.parametrize("options", SGD)
@pytest.mark.parametrize("batch_size", [1, 5, 9])
@pytest.mark.parametrize("sizes", [[8, 64, 64, 4], [200, 256, 130, 10]], ids=str)
def test_float32(device, sizes, batch_size, options):
    check_run(sizes, "cross_entropy", options, device, torch.float32, batch_size, 1e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_network_that_fills_a_cluster(device, momentum):
    options = {"lr": 0.01, "momentum": momentum}
    sizes = [784, 512, 512, 10]
    check_run(sizes, "cross_entropy", options, device, torch.float32, 1, 1e-3, samples=20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch_size", [1, 4, 20])
def test_bits_are_the_same_again_and_step_by_step(device, batch_size, dtype):
    # A last batch of fewer samples is, on CUDA and by itself, for a kernel that adds up in another
    # order.
    samples = 90 if device == "cpu" else 80
    runs = []
    for by_step in (False, False, True):
        trainer, _ = make([33, 40, 6], "mse", SGD[1], device, dtype)
        x, y = (t.to(device) for t in data([33, 40, 6], samples, "mse", dtype))
        if by_step:
            batches = zip(x.split(batch_size), y.split(batch_size), strict=True)
            losses = torch.stack([trainer.step(*batch) for batch in batches])
        else:
            losses = trainer.run(x, y, batch_size)
        runs.append([losses, *state(trainer)])
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert_bits_equal(a.cpu(), b.cpu())


@pytest.mark.parametrize("batch_size", [1, 16])
def test_bytes_a_generator_s_order_and_learning_rates(device, batch_size):
    images = torch.randint(256, (40, 5, 3), dtype=torch.uint8)
    labels = torch.randint(4, (40,))
    steps = -(-40 // batch_size)
    rates = torch.linspace(0.1, 0.01, steps, dtype=torch.float64)
    sizes = [15, 9, 4]
    trainer, (twin, optimizer, loss) = make(sizes, "cross_entropy", SGD[0], device, torch.float32)
    got = trainer.run(
        images.to(device),
        labels.to(device),
        batch_size,
        order=torch.Generator().manual_seed(5),
        lr=rates,
    )
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    x = images.flatten(1).double() / 255
    want = loop(twin, optimizer, loss, x, labels, batch_size, order, rates[:, None])
    torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("name", ["order", "targets"])
def test_what_is_out_of_range_is_an_error_before_the_first_step(device, name, batch_size):
    trainer, _ = make([7, 12, 5], "cross_entropy", SGD[1], device, torch.float32)
    x, y = (t.to(device) for t in data([7, 12, 5], 40, "cross_entropy", torch.float32))
    order = torch.arange(40, device=device)
    (order if name == "order" else y)[37] = 40 if name == "order" else -1
    before = [t.clone() for t in state(trainer)]
    with pytest.raises(IndexError, match=f"^{name}: wanted .* at position 37"):
        trainer.run(x, y, batch_size, order=order)
    for got, want in zip(state(trainer), before, strict=True):
        assert_bits_equal(got.cpu(), want.cpu())


cuda = pytest.mark.skipif(
    not torch.cuda.is_available() or not gdext.build_info()["cuda"]["compiled"],
    reason="no CUDA device",
)


@cuda
@pytest.mark.parametrize("batch_size", [1, 16])
def test_in_a_cuda_graph_and_on_another_stream(batch_size):
    """A replay takes the steps that were captured; so does a call on a stream of its own."""
    x, y = (t.cuda() for t in data([7, 12, 5], 80, "cross_entropy", torch.float32))
    plain, _ = make([7, 12, 5], "cross_entropy", SGD[0], "cuda", torch.float32)
    streamed, _ = make([7, 12, 5], "cross_entropy", SGD[0], "cuda", torch.float32)
    graphed, _ = make([7, 12, 5], "cross_entropy", SGD[0], "cuda", torch.float32)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            streamed.run(x, y, batch_size)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = graphed.run(x, y, batch_size)
    for _ in range(2):
        want = plain.run(x, y, batch_size)
        graph.replay()
        assert_bits_equal(losses.cpu(), want.cpu())
    for other in (streamed, graphed):
        for got, wanted in zip(state(other), state(plain), strict=True):
            assert_bits_equal(got.cpu(), wanted.cpu())


@cuda
@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_replay_reads_rates_and_order_anew(batch_size):
    x, y = (t.cuda() for t in data([7, 12, 5], 32, "cross_entropy", torch.float32))
    plain, _ = make([7, 12, 5], "cross_entropy", SGD[0], "cuda", torch.float32)
    graphed, _ = make([7, 12, 5], "cross_entropy", SGD[0], "cuda", torch.float32)
    rates = torch.zeros(32 // batch_size, dtype=torch.float64, device="cuda")
    order = torch.arange(32, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = graphed.run(x, y, batch_size, order=order, lr=rates)
    for rate in (0.1, 0.2):
        rates.fill_(rate)
        order.copy_(torch.randperm(32))
        want = plain.run(x, y, batch_size, order=order, lr=rate)
        graph.replay()
        assert_bits_equal(losses.cpu(), want.cpu())
    for got, wanted in zip(state(graphed), state(plain), strict=True):
        assert_bits_equal(got.cpu(), wanted.cpu())


@cuda
@pytest.mark.parametrize(
    "asked", [{"lr": [0.1, 0.2]}, {"order": torch.Generator()}], ids=["lr", "order"]
)
def test_what_a_graph_cannot_read_leaves_the_capture_whole(asked):
    x, y = (t.cuda() for t in data([7, 12, 5], 32, "cross_entropy", torch.float32))
    trainer, _ = make([7, 12, 5], "cross_entropy", SGD[0], "cuda", torch.float32)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        with pytest.raises(RuntimeError, match="while a CUDA graph is captured"):
            trainer.run(x, y, 16, **asked)
        doubled = 2 * x
    graph.replay()
    assert_bits_equal(doubled.cpu(), 2 * x.cpu())


@cuda
def test_a_call_on_cuda_returns_before_its_steps_are_done():
    """But for the check of classes, which mse has not."""
    sizes = [784, 512, 512, 10]
    trainer, _ = make(sizes, "mse", SGD[0], "cuda", torch.float32)
    x, y = (t.cuda() for t in data(sizes, 64, "mse", torch.float32))
    trainer.run(x, y, 1)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = trainer.run(x, y, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert losses.isfinite().all()
