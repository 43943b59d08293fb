"""Who trains: gdext's ways and PyTorch's. Each gets the same case and makes the same steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import gdext
from gdext.benchmark import rounds
from gdext.benchmark.networks import LEARNING_RATE, Case
from gdext.benchmark.rounds import Unavailable
from gdext.training.engine import ENGINES

LABELS = {
    "fused": "gdext fused",
    "fused-step": "gdext fused, by step",
    "layers": "gdext layers",
    "eager": "torch eager",
    "layers-graph": "gdext layers, CUDA graph",
    "compile": "torch.compile",
    "graph": "torch, CUDA graph",
    "jax-jit": "JAX jit",
    "jax-scan": "JAX scan",
}

# gdext's own, by the names they have in rows of every section.
OURS = ("fused", "fused-step", "layers", "layers-graph", "gdext")


@dataclass
class Contestant:
    """`work(n)` makes the case's first n steps, from wherever the parameters are."""

    case: Case
    parameters: list[Tensor]
    work: Callable[[int], object]

    def reset(self) -> None:
        with torch.no_grad():
            for p, initial in zip(self.parameters, self.case.initial, strict=True):
                p.copy_(initial)

    def time(self, repeats: int) -> float:
        """The Timer of this contestant; every turn starts from the same parameters."""
        self.reset()
        time.sleep(rounds.PAUSE)
        return rounds.timer(lambda: self.work(self.case.steps), self.case.device)(repeats)

    def end(self, steps: int) -> list[Tensor]:
        """The parameters after the case's first `steps` steps. Who does other work than the rest is
        found out by this."""
        self.reset()
        self.work(steps)
        return [p.detach().clone() for p in self.parameters]


def fused(case: Case) -> Contestant:
    """All steps of a turn in one native call."""
    trainer = _fused_trainer(case)

    def work(steps: int) -> None:
        count = steps * case.batch
        trainer.run(case.inputs[:count], case.targets[:count], case.batch)

    return Contestant(case, list(trainer.model.parameters()), work)


def fused_step(case: Case) -> Contestant:
    """A native call for each step."""
    trainer, batches = _fused_trainer(case), case.batches

    def work(steps: int) -> None:
        for x, y in batches[:steps]:
            trainer.step(x, y)

    return Contestant(case, list(trainer.model.parameters()), work)


def _fused_trainer(case: Case) -> gdext.FusedTrainer:
    model, sgd, loss = ENGINES["layers"](*_arguments(case))
    model.to(case.device, case.network.dtype)
    optimizer = sgd(model.parameters(), lr=LEARNING_RATE)
    try:
        return gdext.FusedTrainer(model, optimizer, loss)
    except (NotImplementedError, RuntimeError) as error:
        if case.device == "cpu":
            raise
        raise Unavailable(str(error)) from error


def layers(case: Case) -> Contestant:
    """gdext.nn and gdext.optim.SGD in the usual loop."""
    return _loop(case, "layers")


def eager(case: Case) -> Contestant:
    """torch.nn and torch.optim.SGD(fused=True) in the usual loop."""
    return _loop(case, "torch", fused=True)


def _loop(case: Case, engine: str, **options: bool) -> Contestant:
    model, step = _step(case, engine, **options)
    batches = case.batches

    def work(steps: int) -> None:
        for x, y in batches[:steps]:
            step(x, y)

    return Contestant(case, list(model.parameters()), work)


def _step(
    case: Case, engine: str, **options: bool
) -> tuple[torch.nn.Module, Callable[[Tensor, Tensor], None]]:
    model, sgd, loss_fn = ENGINES[engine](*_arguments(case))
    model.to(case.device, case.network.dtype)
    optimizer = sgd(model.parameters(), lr=LEARNING_RATE, **options)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()

    return model, step


def layers_graph(case: Case) -> Contestant:
    """A step of `layers`, captured into a CUDA graph and replayed on each batch."""
    return _graph(case, "layers")


def eager_graph(case: Case) -> Contestant:
    """The same of `eager`."""
    return _graph(case, "torch", fused=True)


def _graph(case: Case, engine: str, **options: bool) -> Contestant:
    model, step = _step(case, engine, **options)
    batches = case.batches
    x, y = (t.clone() for t in batches[0])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # what is made at the first step must be there before the capture
            step(x, y)
    torch.cuda.current_stream().wait_stream(stream)
    for p in model.parameters():
        p.grad = None  # to be made anew in the graph's own memory
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step(x, y)
    except RuntimeError as error:
        raise Unavailable(f"cannot be captured: {str(error).splitlines()[0]}") from error

    def work(steps: int) -> None:
        for inputs, targets in batches[:steps]:
            x.copy_(inputs)
            y.copy_(targets)
            graph.replay()

    return Contestant(case, list(model.parameters()), work)


def compiled(case: Case) -> Contestant:
    """The loop of `eager` with forward and backward, and the optimizer's step, compiled; on a GPU
    with mode="reduce-overhead", which makes CUDA graphs."""
    logging.getLogger("torch").setLevel(logging.ERROR)
    torch._dynamo.reset()  # each case has its own shapes: never "too many recompilations"
    model, sgd, loss_fn = ENGINES["torch"](*_arguments(case))
    model.to(case.device, case.network.dtype)
    optimizer = sgd(model.parameters(), lr=LEARNING_RATE)
    mode = "reduce-overhead" if case.device == "cuda" else None
    loss_of = torch.compile(lambda x, y: loss_fn(model(x), y), dynamic=False, mode=mode)
    update = torch.compile(lambda: optimizer.step(), mode=mode)
    batches = case.batches

    def work(steps: int) -> None:
        for x, y in batches[:steps]:
            if mode is not None:
                torch.compiler.cudagraph_mark_step_begin()
            optimizer.zero_grad()
            loss_of(x, y).backward()
            update()

    contestant = Contestant(case, list(model.parameters()), work)
    try:
        work(1)
    except Exception as error:  # of any kind: a missing compiler, a graph that Inductor cannot do
        raise Unavailable(f"torch.compile: {str(error).strip().splitlines()[0]}") from error
    return contestant


def _arguments(case: Case) -> tuple[list[int], str, str]:
    return list(case.network.sizes), case.network.activation, case.network.loss


HERE: dict[str, Callable[[Case], Contestant]] = {
    "fused": fused,
    "fused-step": fused_step,
    "layers": layers,
    "eager": eager,
    "compile": compiled,
}
ON_CUDA_ALONE: dict[str, Callable[[Case], Contestant]] = {
    "layers-graph": layers_graph,
    "graph": eager_graph,
}


def make(name: str, case: Case) -> Contestant | None:
    """The contestant `name`, or None where it is not of this process.

    Raises:
        Unavailable: it cannot take part in this case.
    """
    if name in ON_CUDA_ALONE and case.device != "cuda":
        raise Unavailable("needs --device cuda")
    found = {**HERE, **ON_CUDA_ALONE}.get(name)
    return None if found is None else found(case)


def of_device(device: str) -> list[str]:
    """Who takes part unless others are asked for."""
    return [name for name in LABELS if device == "cuda" or name not in ON_CUDA_ALONE]
