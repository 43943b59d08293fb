"""Two processes of one gloo process group, which run the functions they are sent: they take seconds
to start, so that all tests share one pair (conftest.py's fixture `pair`)."""

from __future__ import annotations

import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from conftest import cuda_missing

SIZE = 2
SECONDS = 120


class Pair:
    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for rank in range(SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, folder / "store", theirs))
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """function(rank, *args) on each; what it returns."""
        answers = self._ask(function, args)
        for rank, (error, _, trace) in enumerate(answers):
            assert error is None, f"rank {rank}: {trace}"
        return [result for _, result, _ in answers]

    def errors(self, function: Callable[..., Any], *args: Any) -> list[str]:
        """What each raises, as "Type: text"; "" where nothing."""
        return [error or "" for error, _, _ in self._ask(function, args)]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()  # which ends them
        for process in self._processes:
            process.join(20)
            process.kill()

    def _ask(self, function: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps((function, args)))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(SECONDS), f"rank {rank} hangs in {function.__name__}"
            answers.append(pickle.loads(pipe.recv_bytes()))
        return answers


def _serve(rank: int, store: Path, pipe: Any) -> None:
    torch.set_num_threads(1)
    gpus = torch.cuda.device_count() >= SIZE and not cuda_missing()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=SIZE,
        timeout=timedelta(seconds=SECONDS),
    )
    while True:
        try:
            function, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        answer: tuple[Any, Any, str] = None, None, ""
        try:
            torch.manual_seed(0)
            answer = None, function(rank, *args), ""
        except Exception as error:
            answer = f"{type(error).__name__}: {error}", None, traceback.format_exc()
        pipe.send_bytes(pickle.dumps(answer))
