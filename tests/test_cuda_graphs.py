"""Every op and the optimizer inside a CUDA graph: captured once, replayed on other numbers, the
same bits as without a graph."""

import pytest
import torch
import torch.nn.functional as F
from compare import assert_bits_equal
from conftest import cuda_missing

import gdext
from gdext import functional

pytestmark = pytest.mark.skipif(cuda_missing() is not None, reason=str(cuda_missing()))

SHAPES = [(64, 33), (64,), (10, 64), (10,), ()]


def capture(work):
    """The graph of `work()`, and what that returned; both run on a stream of their own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = work()
    return graph, outputs


def twice(f, *inputs):
    """f, its gradients along fixed dy, and the gradients of those: forward, backward and double
    backward."""
    y = f(*inputs)
    firsts = torch.autograd.grad(y, inputs, torch.full_like(y, 0.5), create_graph=True)
    live = [d for d in firsts if d.requires_grad]
    seconds = torch.autograd.grad(live, inputs, list(map(torch.ones_like, live)), allow_unused=True)
    return [t for t in (y, *firsts, *seconds) if t is not None]


def with_index(*shape):
    return torch.randint(shape[-1], shape[:-1], device="cuda")


INDEX = {"wide": (9, 3000), "narrow": (33, 10)}
OPS = {
    "linear": (lambda x, w, b: functional.linear(x, w, b), [(9, 33), (17, 33), (17,)]),
    "linear, relu": (lambda x, w, b: functional.linear(x, w, b, "relu"), [(9, 7), (5, 7), (5,)]),
    "linear, gelu": (lambda x, w: functional.linear(x, w, None, "gelu"), [(300, 70), (90, 70)]),
    "mse": (functional.mse_loss, [(40, 30), (40, 30)]),
    "mse, none": (lambda x, t: functional.mse_loss(x, t, reduction="none"), [(4, 3), (4, 3)]),
    "probabilities": (lambda x, t: functional.cross_entropy(x, t.sigmoid()), [(9, 12), (9, 12)]),
    **{
        f"classes, {name}": (
            lambda x, name=name: functional.cross_entropy(
                x, torch.arange(x.shape[0], device="cuda") % x.shape[1], label_smoothing=0.1
            ),
            [shape],
        )
        for name, shape in INDEX.items()
    },
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_ops(name, dtype):
    f, shapes = OPS[name]
    inputs = [torch.randn(s, device="cuda", dtype=dtype, requires_grad=True) for s in shapes]
    graph, outputs = capture(lambda: twice(f, *inputs))
    for _ in range(2):
        with torch.no_grad():
            for t in inputs:
                t.copy_(torch.randn_like(t))
        graph.replay()
        got = [t.detach().clone() for t in outputs]
        for g, w in zip(got, twice(f, *inputs), strict=True):
            assert_bits_equal(g, w.detach())


def make_model():
    model = gdext.nn.MLP([33, 64, 10], activation="tanh").cuda()
    return model, gdext.nn.CrossEntropyLoss()


OPTIONS = [
    {},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"momentum": 0.9, "dampening": 0.3, "maximize": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_training_step_with_a_learning_rate_on_the_device(options):
    """Capturing takes no step: the graph's steps, with another batch and rate each, are the loop's,
    but for the warm-up that comes before."""
    batches = [(torch.randn(16, 33, device="cuda"), with_index(16, 10)) for _ in range(4)]
    rates = [0.1, 0.05, 0.2, 0.01]
    runs = []
    for graphed in (True, False):
        torch.manual_seed(3)
        model, loss_fn = make_model()
        lr = torch.zeros((), device="cuda")
        optimizer = gdext.optim.SGD(model.parameters(), lr, **options)
        x, y = (t.clone() for t in batches[0])

        def step(model=model, loss_fn=loss_fn, optimizer=optimizer, x=x, y=y):
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        if graphed:
            graph, loss = capture(step)  # its warm-up: two steps with a rate of 0
        else:
            step(), step()
        losses = []
        for (inputs, targets), rate in zip(batches, rates, strict=True):
            x.copy_(inputs), y.copy_(targets), lr.fill_(rate)
            if graphed:
                graph.replay()
            else:
                loss = step()
            losses.append(loss.clone())
        runs.append([*losses, *model.parameters(), *optimizer.state_dict()["state"].values()])
    for got, want in zip(*runs, strict=True):
        if isinstance(got, dict):
            got, want = got["momentum_buffer"], want["momentum_buffer"]
        assert_bits_equal(got.detach(), want.detach())


@pytest.mark.parametrize("tensors", [1, 2, 113, 1008, 1009, 2100])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_long_lists_of_tensors(tensors, momentum):
    """In kernel parameters of both sizes, and copied to memory by the graph itself. Some are
    empty, some begin between the boundaries of vectors, in step with their gradients or not."""
    sizes = [(0, 1, 5, 2047, 2048, 2049, 33, 8)[i % 8] for i in range(tensors)]
    memory, gradients = (torch.randn(sum(sizes) + 3, device="cuda") for _ in range(2))
    params = list(memory[1 : 1 + sum(sizes)].split(sizes))
    grads = list(gradients[1 + tensors % 2 : 1 + tensors % 2 + sum(sizes)].split(sizes))
    peers = [p.clone().requires_grad_() for p in params]
    for p, g, q in zip(params, grads, peers, strict=True):
        p.requires_grad_()
        p.grad, q.grad = g, g.clone()
    ours = gdext.optim.SGD(params, 0.1, momentum=momentum, weight_decay=0.01)
    theirs = torch.optim.SGD(peers, 0.1, momentum=momentum, weight_decay=0.01)
    for _ in range(2):
        theirs.step()
    graph, _ = capture(ours.step)
    for _ in range(2):
        graph.replay()
        gradients.neg_()
        theirs.step()
        for q in peers:
            q.grad.neg_()
    for p, q in zip(params, peers, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
    assert memory[0] != 0 and memory[-2:].abs().min() > 0


def test_a_long_list_is_the_graphs_own():
    """What copies it to the device is not another list's before the graph is gone."""

    def many(value):
        params = [torch.full((3,), value, device="cuda", requires_grad=True) for _ in range(1500)]
        for p in params:
            p.grad = torch.ones_like(p)
        return params, gdext.optim.SGD(params, 1.0)

    def values(params):
        return torch.stack(params).unique().tolist()

    (kept, kept_optimizer), (other, other_optimizer) = many(10.0), many(20.0)
    graph, _ = capture(kept_optimizer.step)  # its warm-up: two steps
    assert values(kept) == [8.0]
    for step in range(1, 6):
        other_optimizer.step()
        graph.replay()
        assert (values(kept), values(other)) == ([8.0 - step], [20.0 - step])
    torch.cuda._sleep(200_000_000)  # cycles: the graph is destroyed before it has run
    graph.replay()
    del graph
    other_optimizer.step()
    assert (values(kept), values(other)) == ([2.0], [14.0])


def test_grad_scale_and_found_inf_are_read_at_each_replay():
    p = torch.full((5,), 8.0, device="cuda", requires_grad=True)
    p.grad = torch.zeros_like(p)
    optimizer = gdext.optim.SGD([p], 1.0, momentum=0.5)
    optimizer.step()  # makes the momentum buffer
    optimizer.grad_scale = torch.ones((), device="cuda")
    optimizer.found_inf = torch.zeros((), device="cuda")
    graph, _ = capture(optimizer.step)
    for gradient, scale, found_inf, expected in ((4, 2, 0, 6.0), (9, 3, 1, 6.0), (8, 4, 0, 3.0)):
        p.grad.fill_(gradient)
        optimizer.grad_scale.fill_(scale)
        optimizer.found_inf.fill_(found_inf)
        graph.replay()
        assert p.tolist() == [expected] * 5


def test_a_first_step_that_must_wait_cannot_be_captured():
    p = torch.ones(5, device="cuda", requires_grad=True)
    p.grad = torch.ones_like(p)
    optimizer = gdext.optim.SGD([p], 1.0, momentum=0.5)
    optimizer.found_inf = torch.zeros((), device="cuda")
    graph = torch.cuda.CUDAGraph()
    with (
        pytest.raises(RuntimeError, match="found_inf: wanted a first step with momentum outside"),
        torch.cuda.graph(graph),
    ):
        optimizer.step()
    torch.cuda.synchronize()
    assert not optimizer.state
    assert p.tolist() == [1.0] * 5


def test_nothing_waits_for_the_device():
    model, loss_fn = make_model()
    lr = torch.tensor(0.1, device="cuda")
    optimizer = gdext.optim.SGD(model.parameters(), lr, momentum=0.9)
    x, y = torch.randn(16, 33, device="cuda"), with_index(16, 10)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_graph_of_torch_functions_beside_ours():
    """Ours between torch's own kernels in one graph: on the same stream, in order."""
    x = torch.randn(8, 33, device="cuda")
    w = torch.randn(10, 33, device="cuda")
    graph, y = capture(lambda: functional.linear(x * 2, w).relu() + F.linear(x, w))
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(y, (2 * x @ w.t()).relu() + x @ w.t(), rtol=1e-4, atol=1e-4)
