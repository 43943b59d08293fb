"""docs/api.md from the docstrings, as Markdown that reads well where it is shown without further
tools. Signatures are taken from the source, so that they do not depend on the versions of Python
and PyTorch that write the page."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import ModuleType

import gdext
from gdext import data, descent, functional, gradients, nn, optim

MODULES: list[ModuleType] = [functional, nn, optim, gradients, descent, data]
TOP_LEVEL = ("FusedTrainer", "build_info")

HEAD = """\
# The public interface

Made from the docstrings by `scripts/write_api_page.py`. Every example runs, after
`import torch, gdext`.
What of PyTorch works with these: [compatibility.md](compatibility.md).
"""

# "Args:", and what may follow it in a line of its own.
_SECTION = re.compile(
    r"(Args|Attributes|Shape|Returns|Raises|Example|Source[\w ]*)(::?)(?: (.+))?$"
)


def page() -> str:
    """The whole page."""
    entries = [*_top_level(), *(entry for module in MODULES for entry in _of_module(module))]
    return "\n\n".join([HEAD + "\n" + _contents(), *entries]) + "\n"


def public_names() -> list[str]:
    """Every public name, as a user writes it."""
    names = [f"gdext.{name}" for name in TOP_LEVEL]
    for module in MODULES:
        names += [f"{module.__name__}.{name}" for name in _names(module)]
    return names


def _names(module: ModuleType) -> list[str]:
    """Those of __all__, constants first, then in the order of the alphabet."""
    return sorted(module.__all__, key=lambda n: (not is_constant(module, n), n.lower()))


def is_constant(module: ModuleType, name: str) -> bool:
    value = getattr(module, name)
    return not (inspect.isclass(value) or inspect.isfunction(value))


def _contents() -> str:
    lines = ["- " + ", ".join(f"[{name}](#{_anchor('gdext.' + name)})" for name in TOP_LEVEL)]
    for module in MODULES:
        links = ", ".join(
            name
            if is_constant(module, name)
            else f"[{name}](#{_anchor(f'{module.__name__}.{name}')})"
            for name in _names(module)
        )
        lines.append(f"- [{module.__name__}](#{_anchor(module.__name__)}): {links}")
    return "\n".join(lines)


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _top_level() -> Iterator[str]:
    yield "## gdext"
    yield _prose(inspect.getdoc(gdext) or "")
    for name in TOP_LEVEL:
        yield from _entry(f"gdext.{name}", getattr(gdext, name))


def _of_module(module: ModuleType) -> Iterator[str]:
    yield f"## {module.__name__}"
    yield _prose(inspect.getdoc(module) or "")
    for name in _names(module):
        value = getattr(module, name)
        if not is_constant(module, name):
            yield from _entry(f"{module.__name__}.{name}", value)
        else:
            shown = ", ".join(map(repr, value)) if isinstance(value, tuple | dict) else repr(value)
            yield f"`{module.__name__}.{name}`: {shown}"


def _entry(name: str, value: object) -> Iterator[str]:
    yield f"### {name}"
    yield f"```python\n{_signature(name, value)}\n```"
    yield _prose(inspect.getdoc(value) or "")
    if inspect.isclass(value):
        for method, function in vars(value).items():
            if inspect.isfunction(function) and function.__doc__ and not method.startswith("_"):
                yield f"#### {name}.{method}"
                yield f"```python\n{_signature(method, function)}\n```"
                yield _prose(inspect.getdoc(function) or "")


def _signature(name: str, value: object) -> str:
    source = textwrap.dedent(inspect.getsource(value))  # type: ignore[arg-type]
    node = ast.parse(source).body[0]
    if isinstance(node, ast.FunctionDef):
        return _call(name, node)
    assert isinstance(node, ast.ClassDef)
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return f"class {_call(name, member)}"
    assert isinstance(value, type)
    bases = ", ".join(map(ast.unparse, node.bases))
    if dataclasses.is_dataclass(value) or bases == "NamedTuple":
        fields = [m for m in node.body if isinstance(m, ast.AnnAssign)]
        return f"class {name}:\n" + "\n".join(f"    {ast.unparse(field)}" for field in fields)
    if issubclass(value, Exception):
        return f"class {name}({bases})"
    return f"class {name}(...)  # the arguments of torch's {node.name}"


def _call(name: str, node: ast.FunctionDef) -> str:
    """The call with its types; an argument a line where it would be long."""
    arguments = node.args
    if arguments.args and arguments.args[0].arg == "self":
        del arguments.args[0]
    returns = "" if node.name == "__init__" or node.returns is None else ast.unparse(node.returns)
    arrow = f" -> {returns}" if returns else ""
    line = f"{name}({ast.unparse(arguments)}){arrow}"
    if len(line) <= 92:
        return line
    return f"{name}(\n" + "".join(f"    {each},\n" for each in _arguments(arguments)) + f"){arrow}"


def _arguments(arguments: ast.arguments) -> Iterator[str]:
    missing: list[ast.expr | None] = [None] * (len(arguments.args) - len(arguments.defaults))
    defaults = [*missing, *arguments.defaults]
    yield from map(_argument, arguments.args, defaults)
    if arguments.kwonlyargs:
        yield "*"
    yield from map(_argument, arguments.kwonlyargs, arguments.kw_defaults)


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    text = ast.unparse(argument)
    return text if default is None else f"{text} = {ast.unparse(default)}"


def _prose(doc: str) -> str:
    """A docstring as Markdown: sections get a bold name, their entries become a list, what is
    indented stays code."""
    blocks = []
    for block in re.split(r"\n\n+(?=\S)", doc.strip()):
        head, *rest = block.split("\n")
        section = _SECTION.match(head)
        body = textwrap.dedent("\n".join(rest)).strip("\n")
        if section is None:
            blocks.append(_paragraph(block))
        elif section[2] == "::":
            blocks.append(f"**{section[1]}**\n\n```pycon\n{body}\n```")
        elif section[3] is not None:
            text = " ".join([section[3], *(line.strip() for line in rest)])
            blocks.append(f"**{section[1]}**: {_inline(text)}")
        else:
            blocks.append(f"**{section[1]}**\n\n{_entries(body)}")
    return "\n\n".join(blocks)


def _entries(body: str) -> str:
    """``name: text``, further lines of an entry indented, as a list; else the text."""
    entries = re.split(r"\n(?=\S)", body)
    named = [re.match(r"([\w, ]+?): +(.+)$", entry, re.DOTALL) for entry in entries]
    if not all(named):
        return _inline(" ".join(body.split()))
    return "\n".join(f"- **{m[1]}**: {_inline(' '.join(m[2].split()))}" for m in named if m)


def _paragraph(block: str) -> str:
    """Text, and what is indented in it as code."""
    parts = []
    for part in re.split(r"\n\n+", block):
        if all(line.startswith("    ") for line in part.split("\n")):
            code = textwrap.dedent(part)
            parts.append(f"```\n{code}\n```")
        else:
            parts.append(_inline(" ".join(part.removesuffix("::").split())))
            if part.endswith("::"):
                parts[-1] += ":"
    return "\n\n".join(parts)


def _inline(text: str) -> str:
    """Roles and double backticks as Markdown's code, and what Markdown would take for its own,
    escaped."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"``\1``", text)
    pieces = re.split(r"(``[^`]+``|`[^`]+`)", text)
    for i, piece in enumerate(pieces):
        if i % 2:
            pieces[i] = f"`{piece.strip('`')}`"
        else:
            pieces[i] = re.sub(r"([*\\])", r"\\\1", piece).replace("<", "&lt;")
            pieces[i] = re.sub(r"\](?=[(\[])", r"]\\", pieces[i])
    return "".join(pieces)
