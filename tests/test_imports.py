"""What import contracts cannot see: recipes are scripts, which stand on the library and not on one another."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SCRIPTS = sorted(RECIPES.glob("*.py"))
assert SCRIPTS


def imported(script: Path) -> set[str]:
    """The first part of the name of every module that a script imports."""
    names = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_recipe_imports_neither_another_recipe_nor_a_benchmark(script: Path) -> None:
    # `medial_axis` is no recipe: the points of the embedded skeletons, for one recipe alone
    others = {other.stem for other in SCRIPTS if other.stem != "medial_axis"} | {"recipes", "benchmarks"}
    assert imported(script) & others == set()
