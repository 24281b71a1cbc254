"""Writes the pages of the API reference: one for each wing of the package, with every public module that it holds."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import TypeVar

from sphinx.application import Sphinx

import hf_pgg

MODULES_OF_EVALUATE = "hf_pgg.metrics.modules"  # folders for `evaluate.load`, each with a page of its own


def public_modules() -> list[str]:
    """The dotted names of all public modules and packages, in alphabetical order."""
    found = (module.name for module in pkgutil.walk_packages(hf_pgg.__path__, "hf_pgg."))
    return sorted(name for name in found if "._" not in name and not name.startswith(MODULES_OF_EVALUATE))


def type_variables() -> list[str]:
    """The dotted names of the package's type variables, which stand in signatures and have no entry of their own."""
    return [
        f"{module}.{name}"
        for module in public_modules()
        for name, value in vars(importlib.import_module(module)).items()
        if isinstance(value, TypeVar)
    ]


def wings() -> dict[str, list[str]]:
    """Each wing (`hf_pgg.data`, or a module that stands alone) and the modules in it."""
    names = public_modules()
    return {name: [other for other in names if other.startswith(f"{name}.")] for name in names if name.count(".") == 1}


def page(wing: str, modules: list[str]) -> str:
    """The reStructuredText of a wing's page."""
    lines = [wing, "=" * len(wing), "", f".. automodule:: {wing}", "   :no-members:" if modules else "", ""]
    for name in modules:
        title = name.removeprefix(f"{wing}.")
        lines += [title, "-" * len(title), "", f".. automodule:: {name}", ""]
    return "\n".join(lines)


def public_names() -> str:
    """A table of the names that `import hf_pgg` offers, with the first sentence of each."""
    lines = [".. list-table::", "   :widths: 30 70", ""]
    for name in sorted(hf_pgg.__all__):
        value = getattr(hf_pgg, name)
        summary = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split()).split(". ")[0].split(": ")[0]
        lines.append(f"   * - :py:obj:`~{value.__module__}.{value.__qualname__}`")
        summary = re.sub(r"\[`~?(?:[\w.]*\.)?(\w+)`\]", r"`\1`", summary).rstrip(".:").replace("`", "``")
        lines.append(f"     - {summary}.")
    return "\n".join(lines) + "\n"


def write_pages(app: Sphinx) -> None:
    """Writes the pages into docs/api, where they are not committed; unchanged ones keep their time."""
    folder = Path(app.srcdir) / "api"
    pages = {f"{wing}.rst": page(wing, modules) for wing, modules in wings().items()}
    pages["names.inc"] = public_names()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
