"""JAX, in a process of its own: its interpreter needs jax and numpy, and neither torch nor gdext.

It reads requests from stdin and answers each on stdout, one JSON object a line; between requests it
sleeps in that read, so that the other contestants have the machine to themselves.

    (at the start)                                      {"versions": {...}}
    {"do": "build", "variant": "jit" or "scan", "file": an .npz with inputs [steps,B,I],
     targets, p0, p1, ... (w [O,I] and b [O] of each layer), "activation", "loss", "lr",
     "dtype": of all numbers, "matmul": jax_default_matmul_precision}
                                                        {"built": true}
    {"do": "end", "variant": ..., "steps": n,
     "file": an .npz to write: p0, p1, ... after n steps, as float32}
                                                        {"written": true}
    {"do": "time", "variant": ..., "repeats": n,
     "pause": seconds before the first}                {"seconds": of n turns}
    anything that fails                                 {"error": why}
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

# This file's folder is no place to look for modules in: it is gdext's.
sys.path.pop(0)
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def make_step(jax: Any, activation: str, loss: str, lr: float) -> Callable[..., Any]:
    """(params, (x, y)) -> (params, loss), params a list of (w [I,O], b [O])."""
    jnp = jax.numpy
    activate = {"relu": jax.nn.relu, "tanh": jnp.tanh}[activation]

    def forward(params: Any, x: Any) -> Any:
        for w, b in params[:-1]:
            x = activate(x @ w + b)
        w, b = params[-1]
        return x @ w + b

    def cost(params: Any, x: Any, y: Any) -> Any:
        out = forward(params, x).astype("float32")  # as PyTorch's losses add up
        if loss == "mse":
            return jnp.square(out - y).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(out), y[:, None], axis=1).mean()

    def step(params: Any, batch: Any) -> Any:
        value, gradients = jax.value_and_grad(cost)(params, *batch)
        return jax.tree.map(lambda p, g: p - lr * g, params, gradients), value

    return step


class Runner:
    """One case: all steps in one compiled call ("scan"), or a call for each ("jit")."""

    def __init__(self, jax: Any, numpy: Any, request: dict[str, Any]) -> None:
        self.jax, self.numpy = jax, numpy
        # It holds until the next case's; all functions of this one are compiled before.
        jax.config.update("jax_default_matmul_precision", request["matmul"])
        dtype = jax.numpy.dtype(request["dtype"])
        with numpy.load(request["file"]) as file:
            data = dict(file)
        count = sum(name.startswith("p") for name in data) // 2
        parameters = [data[f"p{i}"].astype(dtype) for i in range(2 * count)]
        self.initial = [(w.T, b) for w, b in zip(parameters[::2], parameters[1::2])]  # noqa: B905
        step = make_step(jax, request["activation"], request["loss"], request["lr"])
        targets = data["targets"]
        targets = targets.astype("int32" if targets.dtype.kind == "i" else dtype)
        inputs, targets = jax.device_put((data["inputs"].astype(dtype), targets))
        # The parameters' memory is donated, so that the update can be made in place.
        if request["variant"] == "scan":
            loop = jax.jit(lambda p, data: jax.lax.scan(step, p, data), donate_argnums=0)
            self.data: Any = (inputs, targets)
            self.turn = lambda params, data: loop(params, data)[0]
            self.first: Callable[[int], Any] = lambda steps: (inputs[:steps], targets[:steps])
        else:
            compiled = jax.jit(step, donate_argnums=0)
            batches = list(zip(inputs, targets))  # noqa: B905  (arrays of one length)

            def turn(params: Any, data: Any) -> Any:
                for batch in data:
                    params, _ = compiled(params, batch)
                return params

            self.data = batches
            self.turn = turn
            self.first = lambda steps: batches[:steps]

    def start(self) -> Any:
        # Copied: on the CPU an array may share numpy's memory, which the update would overwrite.
        return self.jax.block_until_ready(
            self.jax.tree.map(lambda a: self.jax.numpy.array(a, copy=True), self.initial)
        )

    def time(self, repeats: int, pause: float) -> float:
        params = self.start()
        time.sleep(pause)
        begin = time.perf_counter()
        for _ in range(repeats):
            params = self.turn(params, self.data)
        self.jax.block_until_ready(params)
        return time.perf_counter() - begin

    def end(self, steps: int, file: str) -> None:
        arrays = {}
        for i, (w, b) in enumerate(self.turn(self.start(), self.first(steps))):
            arrays[f"p{2 * i}"] = w.T.astype("float32")
            arrays[f"p{2 * i + 1}"] = b.astype("float32")
        self.numpy.savez(file, **arrays)


def main() -> None:
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        import jax
        import jaxlib
        import numpy
    except ImportError as error:
        answer(error=str(error))
        return
    python = platform.python_version()
    answer(versions={"jax": jax.__version__, "jaxlib": jaxlib.__version__, "python": python})
    runners: dict[str, Runner] = {}
    for line in sys.stdin:
        request = json.loads(line)
        variant = request["variant"]
        try:
            if request["do"] == "build":
                runners.pop(variant, None)
                runners[variant] = Runner(jax, numpy, request)
                answer(built=True)
            elif request["do"] == "end":
                runners[variant].end(request["steps"], request["file"])
                answer(written=True)
            else:
                answer(seconds=runners[variant].time(request["repeats"], request["pause"]))
        except Exception as error:  # of any kind: the other process is told, and goes on
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
