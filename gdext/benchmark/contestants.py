"""Who trains: gdext's ways and PyTorch's. Each gets the same case and makes the same steps."""

from __future__ import annotations

import logging
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
    "compile": "torch.compile",
    "jax-jit": "JAX jit",
    "jax-scan": "JAX scan",
}


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
        return rounds.timer(lambda: self.work(self.case.steps))(repeats)

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
    return gdext.FusedTrainer(model, sgd(model.parameters(), lr=LEARNING_RATE), loss)


def layers(case: Case) -> Contestant:
    """gdext.nn and gdext.optim.SGD in the usual loop."""
    return _loop(case, "layers")


def eager(case: Case) -> Contestant:
    """torch.nn and torch.optim.SGD(fused=True) in the usual loop."""
    return _loop(case, "torch", fused=True)


def _loop(case: Case, engine: str, **options: bool) -> Contestant:
    model, sgd, loss_fn = ENGINES[engine](*_arguments(case))
    optimizer = sgd(model.parameters(), lr=LEARNING_RATE, **options)
    batches = case.batches

    def work(steps: int) -> None:
        for x, y in batches[:steps]:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()

    return Contestant(case, list(model.parameters()), work)


def compiled(case: Case) -> Contestant:
    """The loop of `eager` with forward and backward, and the optimizer's step, compiled."""
    logging.getLogger("torch").setLevel(logging.ERROR)
    torch._dynamo.reset()  # each case has its own shapes: never "too many recompilations"
    model, sgd, loss_fn = ENGINES["torch"](*_arguments(case))
    optimizer = sgd(model.parameters(), lr=LEARNING_RATE)
    loss_of = torch.compile(lambda x, y: loss_fn(model(x), y), dynamic=False)
    update = torch.compile(lambda: optimizer.step())
    batches = case.batches

    def work(steps: int) -> None:
        for x, y in batches[:steps]:
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
