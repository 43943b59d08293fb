"""docs/api.md is what the docstrings make, and has every public name."""

from pathlib import Path

import pytest

import gdext
from gdext.instruments import api_page

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the documents are not here")
def test_the_committed_page_is_the_generated_one():
    assert PAGE.read_text() == api_page.page(), "run scripts/write_api_page.py"


def test_every_public_name_is_in_it():
    modules = {m.__name__.rpartition(".")[2] for m in api_page.MODULES}
    assert modules | set(api_page.TOP_LEVEL) == set(gdext.__all__)
    page = api_page.page()
    for name in api_page.public_names():
        assert f"### {name}\n\n```python\n" in page or f"`{name}`: " in page, name


def test_signatures():
    page = api_page.page()
    assert "\ngdext.gradients.cost(engine: str, model: Model, B: int=1) -> int\n" in page
    assert "    label_smoothing: float = 0.0,\n) -> Tensor" in page
    assert "class gdext.FusedTrainer(\n    model: nn.Module,\n" in page
    assert "    gammas: Tensor\n" in page


def test_markdown():
    assert api_page._inline("``[*, I]`` x*y <u> :class:`a.B`") == r"`[*, I]` x\*y &lt;u> `a.B`"
    doc = "One.\n\nArgs:\n    a, b: first\n        and more.\n    c: last.\n\nSource: a\nbook."
    want = "One.\n\n**Args**\n\n- **a, b**: first and more.\n- **c**: last.\n\n**Source**: a book."
    assert api_page._prose(doc) == want
