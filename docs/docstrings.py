"""Turns the docstrings of hf_pgg into the reStructuredText that Sphinx reads.

The docstrings are written in Markdown with Google sections: names in backticks, cross references as [`name`] or
[`~hf_pgg.x.name`], links as [text](target), tables with vertical bars, and indented blocks for formulas. Napoleon
handles the sections; everything else is converted here, before Napoleon runs.
"""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import Any

from reference import public_modules
from sphinx.application import Sphinx
from sphinx.util import logging

PACKAGE = "hf_pgg"
logger = logging.getLogger(__name__)

_REFERENCE = r"\[`(?P<name>~?[\w.]+)`\](?:\((?P<target>[\w.]+)\))?"
_LINK = r"\[(?P<text>[^\]`]+)\]\((?P<url>https?://[^)\s]+)\)"
_CODE = r"(?P<ticks>`+)(?P<code>.+?)(?P=ticks)(?P<after>\w?)"
_EMPHASIS = r"(?P<stars>\*{1,2})(?P<words>[^\s*](?:[^*\n]*[^\s*])?)(?P=stars)"
_RULE = re.compile(r"\s*\|[\s:|-]+\|\s*$")  # the line under a table's head
_INLINE = re.compile("|".join((_REFERENCE, _LINK, _CODE, rf"(?<![\w*]){_EMPHASIS}(?![\w*])")), re.DOTALL)


class UnresolvedReference(LookupError):
    """A cross reference whose name is found neither in the module, nor in its class, nor in the package."""


def resolve(name: str, module: ModuleType, owner: Any = None) -> str:
    """The full dotted name of what a reference in a docstring names.

    Args:
        name: As it stands in the docstring, without a leading `~`.
        module: The module of the docstring.
        owner: The class or function of the docstring, whose attributes may be named without it.

    Raises:
        UnresolvedReference: If there is no such object.
    """
    for scope in filter(None, (owner, module)):
        found = _lookup(scope, name)
        if found is not None:
            return _full_name(found, f"{module.__name__}.{name}")
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            scope = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        found = scope if length == len(parts) else _lookup(scope, ".".join(parts[length:]))
        if found is not None:
            return _full_name(found, name)
    elsewhere = {_full_name(found, name) for other in _modules() if (found := _lookup(other, name)) is not None}
    if len(elsewhere) == 1:
        return elsewhere.pop()
    raise UnresolvedReference(name)


def _modules() -> list[ModuleType]:
    return [importlib.import_module(other) for other in public_modules()]


def _lookup(scope: Any, name: str) -> Any:
    for part in name.split("."):
        scope = getattr(scope, part, None)
    return scope


def _full_name(found: Any, default: str) -> str:
    """Where an object is defined. A value such as a dictionary does not know it: its reference leads to the module."""
    if isinstance(found, ModuleType):
        return found.__name__
    if isinstance(getattr(found, "__qualname__", None), str):
        return f"{found.__module__}.{found.__qualname__}"
    return _module_of(default) if default.startswith(PACKAGE) else default


def inline(text: str, module: ModuleType, owner: Any = None) -> str:
    """Markdown within a paragraph to reStructuredText.

    Raises:
        UnresolvedReference: If a cross reference names nothing.
    """
    out, position = [], 0
    for found in _INLINE.finditer(text):
        out.append(_escape(text[position : found.start()]))
        out.append(_inline_item(found, module, owner))
        position = found.end()
    return "".join(out) + _escape(text[position:])


def _inline_item(found: re.Match[str], module: ModuleType, owner: Any) -> str:
    if found["name"]:
        full = resolve(found["target"] or found["name"].lstrip("~"), module, owner)
        shown = found["name"].lstrip("~").rsplit(".", 1)[-1] if found["name"].startswith("~") else found["name"]
        if full.split(".")[0] != PACKAGE:
            return f"``{shown}``"
        return f":py:obj:`{shown} <{full}>`"
    if found["url"]:
        return f"`{_escape(found['text'])} <{found['url']}>`__"
    if found["ticks"]:
        return f"``{found['code']}``" + (rf"\ {found['after']}" if found["after"] else "")
    return f"{found['stars']}{_escape(found['words'])}{found['stars']}"


def _escape(text: str) -> str:
    return re.sub(r"([\\*`|]|(?<=\w)_(?!\w))", r"\\\1", text)


def convert(lines: list[str], module: ModuleType, owner: Any = None) -> list[str]:
    """The lines of a docstring in reStructuredText, its sections left for Napoleon."""
    out: list[str] = []
    i, level = 0, 0
    while i < len(lines):
        line = lines[i]
        indent = len(line) - len(line.lstrip())
        fresh = i == 0 or not lines[i - 1].strip()
        if line.lstrip().startswith(">>>"):
            end = _end(lines, i, lambda other: bool(other.strip()))
            out += lines[i:end]
        elif line.lstrip().startswith("|") and i + 1 < len(lines) and _RULE.match(lines[i + 1]):
            end = _end(lines, i, lambda other: other.lstrip().startswith("|"))
            out += _table(lines[i:end], " " * indent, module, owner)
        elif fresh and line.strip() and indent >= level + 4:
            end = _end(lines, i, lambda other, level=level: not other.strip() or _indent(other) >= level + 4)
            out += [f"{' ' * level}.. code-block:: text", "", *lines[i:end], ""]
        else:
            end = _end(lines, i, lambda other: bool(other.strip()) and not other.lstrip().startswith(("|", ">>>")))
            end = max(end, i + 1)
            out += inline("\n".join(lines[i:end]), module, owner).split("\n")
            level = _indent(lines[end - 1]) if lines[end - 1].strip() else level
            if re.match(r"\s*(Args|Returns|Raises|Example|Examples|Yields):$", lines[end - 1]):
                level += 4
        i = end
    return out


def _end(lines: list[str], start: int, belongs: Any) -> int:
    end = start
    while end < len(lines) and belongs(lines[end]):
        end += 1
    return end


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _table(lines: list[str], indent: str, module: ModuleType, owner: Any) -> list[str]:
    rows = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in lines if not _RULE.match(line)]
    out = ["", f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
    for row in rows:
        for number, cell in enumerate(row):
            text = inline(cell.strip().replace(r"\|", "|"), module, owner)
            out.append(f"{indent}   {'*' if number == 0 else ' '} - {text}")
    return [*out, ""]


def process_docstring(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """The handler of `autodoc-process-docstring`; a reference that names nothing is a warning, hence an error."""
    module = value if what == "module" else importlib.import_module(_module_of(name))
    if what != "module" and getattr(value, "__module__", module.__name__) != module.__name__:
        return  # imported: autodoc asks for its docstring, and leaves it out
    owner = None if what == "module" else value
    if what in ("method", "attribute", "property"):
        owner = _lookup(module, name[len(module.__name__) + 1 :].rpartition(".")[0])
    try:
        lines[:] = convert(lines, module, owner)
    except UnresolvedReference as error:
        logger.warning("%s: [`%s`] names nothing", name, error.args[0])


def drop_private_bases(app: Sphinx, name: str, value: Any, options: Any, bases: list[Any]) -> None:
    """The handler of `autodoc-process-bases`: a private base has no page that a link could lead to."""
    bases[:] = [base for base in bases if not getattr(base, "__name__", "").startswith("_")] or [object]


def _module_of(name: str) -> str:
    """The longest part of a dotted name that is a module."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            return importlib.import_module(".".join(parts[:length])).__name__
        except ImportError:
            continue
    raise UnresolvedReference(name)
