"""The API reference is built from the docstrings: everything public has one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import hf_pgg

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(hf_pgg.__path__, "hf_pgg.")
    if not module.name.startswith("hf_pgg.metrics.") or module.name.count(".") == 2  # not the modules of the Spaces
)


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The functions and classes that a module defines under public names, and the classes' public methods."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            yield name, value
        if inspect.isclass(value):
            for method, function in vars(value).items():
                if inspect.isfunction(function) and not method.startswith("_"):
                    yield f"{name}.{method}", getattr(value, method)


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert inspect.getdoc(module), f"{name} does not say what it is"
    # `getdoc` finds the docstring of the method that is overridden
    assert [found for found, value in public(module) if not inspect.getdoc(value)] == []


def test_the_names_of_the_package_are_there() -> None:
    assert [name for name in hf_pgg.__all__ if not hasattr(hf_pgg, name)] == []
    assert len(set(hf_pgg.__all__)) == len(hf_pgg.__all__)
