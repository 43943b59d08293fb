"""A function in a new process of the same Python: for what one process can do but once."""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")


def in_new_process(function: Callable[..., T], *arguments: Any, **environ: str) -> T:
    """function(*arguments), of a module's top level, with `environ` added to the environment.

    Raises: what the function raises, or the import of its module; BrokenProcessPool if the process
        is killed.
    """
    spawn = multiprocessing.get_context("spawn")
    with (
        mock.patch.dict(os.environ, environ),
        ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool,
    ):
        # First, by name: an import that fails where the function is unpickled kills the process.
        pool.submit(pkgutil.resolve_name, f"{function.__module__}:__name__").result()
        return pool.submit(function, *arguments).result()
