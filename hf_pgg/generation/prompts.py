"""Prompts: templates with placeholders, checked against the data before the first image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features

from hf_pgg.data.images import undecoded
from hf_pgg.data.labels import class_feature

CLASS = "class"
PROMPT = "photo of {class}, best quality"  # of Real-Fake


@dataclass(frozen=True)
class Prompts:
    """Templates such as `"a photo of a {class} in the snow, {caption}"`.

    `{class}` is the name of the row's class; any other placeholder is a column of the data set. Values of `ClassLabel`
    columns are said by their names, with underscores as spaces.

    Args:
        templates (`tuple[str, ...]`): Version v of a row takes the one v places after the row's own, so that versions
            of a row differ and every template is used equally often.
        needs_class (`bool`): Refuse a template without `{class}`, which asks for the same image whatever the label;
            instructions to an editor need none.

    Raises:
        ValueError: If there is no template, or one is malformed or lacks `{class}`.

    Example:
        >>> Prompts(("a photo of a {class}", "a {class} in the snow")).fill(rows[0], rows.features)
        ['a photo of a cat', 'a cat in the snow']
    """

    templates: tuple[str, ...]
    needs_class: bool = True
    label_column: str = "label"

    def __post_init__(self) -> None:
        if not self.templates:
            raise ValueError("there is no prompt template: give one or more")
        for template in self.templates:
            if CLASS not in _placeholders(template) and self.needs_class:
                raise ValueError(f"prompt '{template}' has no {{class}}: every label would get the same image")

    @classmethod
    def read(
        cls, templates: Sequence[str] | None, file: str | Path | None, default: str | None = None, **fields: Any
    ) -> Prompts:
        """Prompts from a list or from a text file, whichever is given; from `default` if neither is.

        A file has one template a line; empty lines and lines that begin with `#` are passed over.

        Raises:
            ValueError: If both are given, or neither without a default; of a refused template, with file and line.
        """
        if not templates and file is None and default is not None:
            templates = [default]
        if (not templates) == (file is None):
            raise ValueError("give prompts either as a list or as a text file")
        if file is None:
            return cls(tuple(templates or ()), **fields)
        found: list[str] = []
        for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip() and not line.strip().startswith("#"):
                try:
                    found += cls((line.strip(),), **fields).templates
                except ValueError as error:
                    raise ValueError(f"{file}, line {number}: {error}") from error
        if not found:
            raise ValueError(f"{file} holds no prompt: write one a line")
        return cls(tuple(found), **fields)

    @property
    def columns(self) -> list[str]:
        """The columns that the templates read."""
        return sorted({name for template in self.templates for name in _placeholders(template)} - {CLASS})

    def check(self, dataset: Dataset) -> str:
        """Returns a digest of the templates and of what fills them, which tells a resumed run from another one.

        Raises:
            ValueError: If a row cannot fill a template, or a class has no row, naming what is missing.
        """
        label = class_feature(dataset.features, self.label_column)
        for template in self.templates:
            for name in _placeholders(template):
                if name != CLASS and name not in dataset.features:
                    known = ", ".join(sorted(dataset.features))
                    raise ValueError(f"prompt '{template}': {{{name}}} is neither {{class}} nor a column of: {known}")
        values = undecoded(dataset).select_columns([self.label_column, *self.columns])[:]
        for name, column in values.items():
            for row, value in enumerate(column):
                if value is None or value == "":
                    raise ValueError(f"row {row}, column '{name}': it is empty. Fill it or remove the row.")
        missing = sorted(set(range(label.num_classes)) - set(values[self.label_column]))
        if missing:
            names = ", ".join(label.int2str(index) for index in missing)
            raise ValueError(f"no image has label {names}: give each class a row, or take it out of the ClassLabel")
        return hashlib.sha256(repr((self.templates, label.names, values)).encode()).hexdigest()[:16]

    def fill(self, row: Mapping[str, Any], features: Features) -> list[str]:
        """Fills every template for a row of a dataset with these features."""
        values = {CLASS: _named(row[self.label_column], class_feature(features, self.label_column))}
        values |= {column: _named(row[column], features[column]) for column in self.columns}
        return [template.format(**values) for template in self.templates]

    def render(self, row: Mapping[str, Any], features: Features, version: int, rng: np.random.Generator) -> str:
        """Fills the template of a row's version; `rng` is the row's own and decides which one its version 0 takes."""
        return self.fill(row, features)[(int(rng.integers(len(self.templates))) + version) % len(self.templates)]


def _named(value: Any, feature: Any) -> Any:
    """A value as a prompt says it."""
    return feature.int2str(int(value)).replace("_", " ") if isinstance(feature, ClassLabel) else value


def _placeholders(template: str) -> set[str]:
    """The names in braces; ValueError if a brace is not closed, or a name is missing or reaches into an object."""
    try:
        names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"prompt '{template}': {error}") from error
    for name in names:
        if not name.isidentifier():
            raise ValueError(f"prompt '{template}': {{{name}}} is not the name of a column")
    return names
