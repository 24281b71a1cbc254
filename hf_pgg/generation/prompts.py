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
from hf_pgg.data.labels import class_label
from hf_pgg.data.provenance import LABELS

CLASS = "class"


@dataclass(frozen=True)
class Prompts:
    """Templates such as `"a photo of a {class} in the snow, {caption}"`.

    `{class}` is the name of the row's class with its underscores as spaces; any other placeholder is a column, and of a
    `ClassLabel` column its name too.

    Args:
        templates (`tuple[str, ...]`): Version v of a row takes the one v places after the row's own, so that versions
            of a row differ and every template is used equally often.
        needs_class (`bool`, *optional*, defaults to `True`): Refuse a template without `{class}`, which asks for the
            same image whatever the label; instructions to an editor need none.
        label_column (`str`): Its name in the dataset.

    Raises:
        ValueError: If there is no template, or one is malformed or lacks `{class}`.
    """

    templates: tuple[str, ...]
    needs_class: bool = True
    label_column: str = "label"

    def __post_init__(self) -> None:
        if not self.templates:
            raise ValueError("there is no prompt template")
        for template in self.templates:
            names = placeholders(template)
            if self.needs_class and CLASS not in names:
                raise ValueError(f"prompt '{template}' has no {{class}}: every label would get the same image")

    @classmethod
    def from_file(cls, path: str | Path, **fields: Any) -> Prompts:
        """Templates of a text file, one a line; empty lines and lines that begin with `#` are passed over.

        Raises:
            ValueError: Naming the file and the line.
        """
        found = []
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
            template = line.strip()
            if not template or template.startswith("#"):
                continue
            try:
                cls((template,), **fields)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            found.append(template)
        if not found:
            raise ValueError(f"{path} holds no prompt")
        return cls(tuple(found), **fields)

    @property
    def columns(self) -> list[str]:
        """The columns that the templates read."""
        return sorted({name for template in self.templates for name in placeholders(template)} - {CLASS})

    def check(self, dataset: Dataset) -> str:
        """Checks that every row can fill every template, and that every class has a row.

        Returns:
            A digest of the templates and of what fills them, to tell a resumed run from another one.

        Raises:
            ValueError: Naming the template and its placeholder, the row and its column, or the classes.
        """
        label = single_label(dataset.features, self.label_column)
        for template in self.templates:
            for name in placeholders(template):
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
        """Every template, filled for a row of a dataset with these features."""
        values = {CLASS: _named(row[self.label_column], single_label(features, self.label_column))}
        values |= {column: _named(row[column], features[column]) for column in self.columns}
        return [template.format(**values) for template in self.templates]

    def render(self, row: Mapping[str, Any], features: Features, version: int, rng: np.random.Generator) -> str:
        """The prompt of a row's version; `rng` is the row's own and decides which template its version 0 takes."""
        return self.fill(row, features)[(int(rng.integers(len(self.templates))) + version) % len(self.templates)]


def single_label(features: Features, label_column: str) -> ClassLabel:
    """The `ClassLabel` of a row's one label, which a prompt names; the contract's `labels` may be several.

    Raises:
        ValueError: If there is no such column or it is not a `ClassLabel`.
    """
    return class_label(Features({name: kind for name, kind in features.items() if name != LABELS}), label_column)


def _named(value: Any, feature: Any) -> Any:
    """A value as a prompt says it: a class by its name, with its underscores as spaces."""
    return feature.int2str(int(value)).replace("_", " ") if isinstance(feature, ClassLabel) else value


def placeholders(template: str) -> set[str]:
    """Names in braces.

    Raises:
        ValueError: If a brace is not closed, or a placeholder has no name or reaches into an object.
    """
    try:
        names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"prompt '{template}': {error}") from error
    for name in names:
        if not name.isidentifier():
            raise ValueError(f"prompt '{template}': {{{name}}} is not the name of a column")
    return names


def read_prompts(templates: Sequence[str] | None, file: str | None, **fields: Any) -> Prompts:
    """[`Prompts`] from a list or from a text file, whichever is given.

    Raises:
        ValueError: If both or neither are given.
    """
    if (templates is None) == (file is None):
        raise ValueError("give prompts either as a list or as a text file")
    return Prompts.from_file(file, **fields) if file is not None else Prompts(tuple(templates or ()), **fields)
