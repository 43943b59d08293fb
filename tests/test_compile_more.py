"""torch.compile of the optimizer's step and around torch.func's transforms; torch.export."""

import copy
import io

import pytest
import torch
from inputs import randn
from torch import nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

import gdext
from gdext.functional import cross_entropy


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def problem(device, dtype=torch.float32):
    model = gdext.nn.MLP([6, 8, 3], "gelu", device=device, dtype=dtype)
    return model, randn(5, 6, dtype=dtype, device=device), torch.arange(5, device=device) % 3


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9, "weight_decay": 0.01}, {"momentum": 0.9, "nesterov": True}]
)
def test_optimizer_step(device, fullgraph, options):
    model, x, target = problem(device, torch.float64)
    pairs = []
    for kind in (gdext.optim.SGD, torch.optim.SGD):
        twin = copy.deepcopy(model)
        pairs.append((twin, kind(twin.parameters(), lr=0.1, **options)))
    (ours, optimizer), (theirs, reference) = pairs
    step = optimizer.step

    def compiled():
        step()

    compiled = torch.compile(compiled, fullgraph=fullgraph, backend="aot_eager")
    before = [p.detach().clone() for p in ours.parameters()]
    for _ in range(3):
        for twin, update in ((ours, compiled), (theirs, reference.step)):
            twin.zero_grad()
            nn.functional.cross_entropy(twin(x), target).backward()
            update()
    for got, want, old in zip(ours.parameters(), theirs.parameters(), before, strict=True):
        torch.testing.assert_close(got, want)
        assert not torch.equal(got, old)


def transforms(model, x, target):
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(params, x, target):
        return cross_entropy(functional_call(model, params, (x,)), target)

    return {
        "grad": lambda: grad(loss)(params, x, target)["0.weight"],
        "per sample": lambda: vmap(grad(loss), (None, 0, 0))(params, x, target)["0.weight"],
        "vmap": lambda: vmap(model)(x),
        "jvp": lambda: jvp(model, (x,), (x.sin(),))[1],
        "jacrev": lambda: jacrev(model)(x),
        "hessian": lambda: hessian(lambda row: model(row).square().sum())(x[0]),
    }


@pytest.mark.parametrize("name", ["grad", "per sample", "vmap", "jvp", "jacrev", "hessian"])
def test_transforms(device, name):
    """They run uncompiled, with the right numbers, or say why they cannot be in one graph."""
    transform = transforms(*problem(device))[name]
    want = transform()
    torch.testing.assert_close(torch.compile(transform, backend="aot_eager")(), want)
    torch.compiler.reset()  # else the first call's decision not to compile would hold
    with pytest.raises(Exception, match=r"inside a transform of torch\.func"):
        torch.compile(transform, fullgraph=True, backend="aot_eager")()


def test_marked_dynamic(device):
    """A size marked dynamic: one graph for every batch."""
    model, _, _ = problem(device)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    loss = torch.compile(lambda x, t: cross_entropy(model(x), t), fullgraph=True, backend=backend)
    for batch in (4, 7, 12):
        x, target = randn(batch, 6, device=device).float(), torch.arange(batch, device=device) % 3
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(target, 0)
        torch.testing.assert_close(loss(x, target), cross_entropy(model(x), target))
        assert len(graphs) == 1


class WithLoss(nn.Module):
    def __init__(self, model, loss, target):
        super().__init__()
        self.model, self.loss, self.target = model, loss, target

    def forward(self, x, t):
        target = t if self.target == "classes" else nn.functional.one_hot(t, 3).to(x.dtype)
        return self.loss(self.model(x), target)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (gdext.nn.CrossEntropyLoss(label_smoothing=0.1), "classes"),
        (gdext.nn.CrossEntropyLoss(), "probabilities"),
        (gdext.nn.MSELoss(), "probabilities"),
    ],
    ids=["classes", "probabilities", "mse"],
)
def test_export(device, strict, loss, target):
    """Exported, saved and loaded: the same numbers, at another batch size too."""
    model, x, t = problem(device)
    module = WithLoss(model, loss, target)
    batch = {0: torch.export.Dim("batch", min=2)}
    exported = torch.export.export(module, (x, t), dynamic_shapes=(batch, batch), strict=strict)
    graphs = [m.graph for m in exported.graph_module.modules() if hasattr(m, "graph")]
    assert any("gdext" in str(node.target) for graph in graphs for node in graph.nodes)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    for program in (exported, torch.export.load(file)):
        for size in (5, 3):
            torch.testing.assert_close(
                program.module()(x[:size], t[:size]), module(x[:size], t[:size])
            )
