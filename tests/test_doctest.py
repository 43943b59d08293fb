"""Every example in the public docstrings runs and prints what it says, and every public function
and class has one."""

import doctest
import inspect

import pytest
import torch

import gdext
from gdext import data
from gdext.instruments import api_page

SIZES = {"MNIST": (60000, 10000), "QMNIST": (60000, 60000)}


def public(name):
    value = gdext
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    return value


DOCUMENTED = [n for n in api_page.public_names() if callable(public(n))]


def examples(name):
    """The docstrings' tests: a class's, and its methods'."""
    finder = doctest.DocTestFinder(recurse=True, exclude_empty=True)
    names = {"torch": torch, "gdext": gdext}
    return [t for t in finder.find(public(name), name, module=False, globs=names) if t.examples]


@pytest.fixture
def _sets_without_files(monkeypatch):
    """Sets of the right shape, since the files need not be here."""

    def load(name, root, train, download):
        count = SIZES.get(name, SIZES["MNIST"])[not train]
        images = torch.zeros(1, 28, 28, dtype=torch.uint8).expand(count, 28, 28)
        labels = torch.zeros(count, dtype=torch.int64)
        return data.ImageSet(images, labels, tuple("0123456789"), "nowhere")

    monkeypatch.setattr(data, "_load", load)


@pytest.mark.usefixtures("_sets_without_files")
@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples(name):
    found = examples(name)
    assert found, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST)
    said = []
    for test in found:
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_sections(name):
    """Arguments and errors are told where there are any."""
    value, doc = public(name), inspect.getdoc(public(name)) or ""
    assert "Example::" in doc
    if inspect.isfunction(value) and inspect.signature(value).parameters:
        for section in ("Args:", "Returns:", *(["Raises:"] if value.__name__ != "convert" else [])):
            assert section in doc, f"{name}: {section}"
        for argument in inspect.signature(value).parameters:
            assert argument in doc, f"{name}: {argument}"


def test_a_wrong_example_is_found():
    def wrong():
        """
        >>> 1 + 1
        3
        """

    runner, said = doctest.DocTestRunner(), []
    for test in doctest.DocTestFinder().find(wrong, "wrong", module=False, globs={}):
        runner.run(test, out=said.append)
    assert runner.failures == 1
