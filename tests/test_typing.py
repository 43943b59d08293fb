"""The code that mypy --strict checks in .ci/run also runs."""

import runpy
from pathlib import Path


def test_the_typed_code_runs():
    names = runpy.run_path(str(Path(__file__).with_name("typing_api.py")))
    assert names["path"].points.shape == (4, 2)
