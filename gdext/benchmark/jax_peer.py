"""JAX as a contestant: jax_worker.py under any interpreter that has it, asked turn by turn."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from gdext.benchmark import rounds
from gdext.benchmark.networks import LEARNING_RATE, Case
from gdext.benchmark.precision import PRECISIONS
from gdext.benchmark.rounds import Timer, Unavailable

VARIANTS = {"jax-jit": "jit", "jax-scan": "scan"}


class JaxPeer:
    """The worker process. It inherits the processor affinity, which is what limits XLA's threads.

    Raises:
        Unavailable: `python` cannot be started or has no jax.
    """

    def __init__(self, python: str, device: str = "cpu") -> None:
        environ = {"JAX_PLATFORMS": device, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        worker = Path(__file__).with_name("jax_worker.py")
        try:
            self._process = subprocess.Popen(
                [python, str(worker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **environ},
            )
        except OSError as error:
            raise Unavailable(f"{python} cannot be started: {error.strerror}") from error
        self._folder = tempfile.TemporaryDirectory()
        try:
            self.versions: dict[str, str] = self._answer()["versions"]
        except Unavailable:
            self.close()
            raise

    def __enter__(self) -> JaxPeer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def build(self, name: str, case: Case) -> tuple[Timer, Callable[[int], list[Tensor]]]:
        """The timer of the contestant `name`, and its parameters after some steps
        (Contestant.end)."""
        variant = VARIANTS[name]
        self._ask(
            do="build",
            variant=variant,
            file=str(self._save(case)),
            activation=case.network.activation,
            loss=case.network.loss,
            lr=LEARNING_RATE,
            dtype=str(case.network.dtype).removeprefix("torch."),
            # That of everyone else: on a GPU JAX would take tf32 for float32.
            matmul=PRECISIONS[case.network.precision].jax,
        )

        def timer(repeats: int) -> float:
            answer = self._ask(do="time", variant=variant, repeats=repeats, pause=rounds.PAUSE)
            return float(answer["seconds"])

        def end(steps: int) -> list[Tensor]:
            import numpy

            file = str(Path(self._folder.name) / "end.npz")
            self._ask(do="end", variant=variant, steps=steps, file=file)
            with numpy.load(file) as arrays:
                ends = [torch.from_numpy(arrays[f"p{i}"]) for i in range(len(case.initial))]
            return [p.to(case.device, case.network.dtype) for p in ends]

        return timer, end

    def _save(self, case: Case) -> Path:
        import numpy

        path = Path(self._folder.name) / "case.npz"
        by_step = (case.steps, case.batch, -1)
        targets = case.targets.view(by_step if case.targets.dim() == 2 else by_step[:2])
        tensors = {f"p{i}": p for i, p in enumerate(case.initial)}
        tensors.update(inputs=case.inputs.view(by_step), targets=targets)
        # numpy has no bfloat16.
        arrays: dict[str, Any] = {
            name: (t.float() if t.is_floating_point() else t).cpu().numpy()
            for name, t in tensors.items()
        }
        numpy.savez(path, **arrays)
        return path

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says it
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable("JAX's process ended; what it said is above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Unavailable(f"JAX: {answer['error']}")
        return answer
