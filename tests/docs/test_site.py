"""The API reference holds every public module, and the docstrings become what Sphinx resolves.

`make docs` builds the site and fails on a broken link or reference; here is what its own code does.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))

import docstrings
import reference

import hf_pgg
from hf_pgg.synthesis import base


def test_every_public_module_is_on_a_page() -> None:
    pages = "".join(reference.page(wing, modules) for wing, modules in reference.wings().items())
    files = Path(hf_pgg.__file__).parent.rglob("*.py")
    names = {
        ".".join(("hf_pgg", *path.relative_to(Path(hf_pgg.__file__).parent).with_suffix("").parts)) for path in files
    }
    public = {name.removesuffix(".__init__") for name in names if "._" not in name.removesuffix(".__init__")}
    expected = {name for name in public if not name.startswith(reference.MODULES_OF_EVALUATE)} - {"hf_pgg"}
    assert set(re.findall(r"automodule:: (\S+)", pages)) == expected


@pytest.mark.parametrize("name", reference.public_modules())
def test_no_reference_of_a_docstring_stays_in_brackets(name: str) -> None:
    module = importlib.import_module(name)
    owners = [value for value in vars(module).values() if getattr(value, "__module__", None) == name]
    for owner in (module, *owners):
        lines = (inspect.getdoc(owner) or "").split("\n")
        converted = "\n".join(docstrings.convert(lines, module, None if owner is module else owner))
        assert not re.search(r"\[`", converted), f"{name}: {converted}"


def inline(text: str, module: ModuleType = base) -> str:
    return docstrings.inline(text, module)


def test_references_become_roles_with_the_full_name() -> None:
    assert inline("[`RowTransform`]") == ":py:obj:`RowTransform <hf_pgg.synthesis.base.RowTransform>`"
    assert inline("[`~hf_pgg.PGGTrainer`]") == ":py:obj:`PGGTrainer <hf_pgg.training.trainer.PGGTrainer>`"
    assert inline("[`FrameSampler`]") == ":py:obj:`FrameSampler <hf_pgg.data.frame_sampling.FrameSampler>`"
    assert inline("[`numpy.ndarray`]") == "``numpy.ndarray``"


def test_a_reference_that_names_nothing_is_an_error() -> None:
    with pytest.raises(docstrings.UnresolvedReference, match="NoSuchThing"):
        inline("[`NoSuchThing`]")


def test_markdown_becomes_restructured_text() -> None:
    assert inline("`a` of *b*, 2 * 3, ||g||") == r"``a`` of *b*, 2 \* 3, \|\|g\|\|"
    assert inline("[the paper](https://arxiv.org/abs/1)") == "`the paper <https://arxiv.org/abs/1>`__"


def test_tables_and_formulas_become_blocks() -> None:
    table = ["| a | b |", "| --- | --- |", "| `x` | 1 |"]
    assert docstrings.convert(table, base)[1:7] == [
        ".. list-table::",
        "   :header-rows: 1",
        "",
        "   * - a",
        "     - b",
        "   * - ``x``",
    ]
    formula = ["The loss:", "", "    l2   ||(1 - I) g||^2"]
    assert docstrings.convert(formula, base)[2:5] == [".. code-block:: text", "", "    l2   ||(1 - I) g||^2"]
