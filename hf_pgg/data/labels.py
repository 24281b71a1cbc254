"""The classes of a dataset: which column holds them, and what they are called."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, List, Value

from hf_pgg.data.provenance import LABELS, whole_number

_logger = logging.getLogger(__name__)
_SHOWN = 8  # names of classes in a message


def class_feature(features: Features, column: str) -> ClassLabel:
    """Returns the `ClassLabel` of a column; ValueError if there is no such column or it is none.

    Example:
        >>> class_feature(rows.features, "label").names
        ['cat', 'dog']
    """
    feature = features.get(column)
    if not isinstance(feature, ClassLabel):
        raise _no_classes(column, "missing" if feature is None else repr(feature), features)
    return feature


def class_label(features: Features, label_column: str = "label") -> ClassLabel:
    """Returns the classes of a dataset: those of a list `labels` (the contract), of `label_column`, or of `labels`.

    ValueError if there is no such column or it is not a `ClassLabel`.

    Example:
        >>> class_label(rows.select_columns("labels").features).names
        ['cat', 'dog']
    """
    feature = features.get(own_label_column(features, label_column))
    if isinstance(feature, List):
        feature = feature.feature
    if not isinstance(feature, ClassLabel):
        found = "missing" if feature is None else f"a {type(feature).__name__}"
        raise _no_classes(label_column, found, features)
    return feature


def is_scalar(feature: Any, *kinds: str) -> bool:
    """Returns whether a feature holds one value a row, of a dtype that begins with one of `kinds`.

    Example:
        >>> is_scalar(rows.features["row_id"], "int"), is_scalar(rows.features["label_weights"], "int", "float")
        (True, False)
    """
    return isinstance(feature, (ClassLabel, Value)) and feature.dtype.startswith(kinds)


def own_label_column(features: Features, label_column: str = "label") -> str:
    """Returns the column that holds the classes: `labels` if it is a list, or if there is no `label_column`.

    Example:
        >>> own_label_column(Features(labels=ClassLabel(names=["cat", "dog"])))
        'labels'
    """
    contract = isinstance(features.get(LABELS), List)
    return LABELS if contract or (label_column not in features and LABELS in features) else label_column


def encode_classes(splits: Mapping[str, Dataset], *columns: str) -> DatasetDict:
    """Numbers the values of columns over all splits at once, in sorted order, and says so in one line.

    Values are strings, integers, or the classes of a `ClassLabel`, which are matched by name and keep the order of the
    first split. Encoded split by split, a split that lacks a class would number the others otherwise.

    Raises:
        ValueError: If values are neither, are fractions or lists, or some splits hold numbers and others names.

    Example:
        >>> both = {"train": ["fox", "cat", "dog"], "test": ["fox", "cat"]}
        >>> encoded = encode_classes({name: Dataset.from_dict({"animal": own}) for name, own in both.items()}, "animal")
        >>> encoded["test"]["animal"][:], encoded["test"].features["animal"].names
        ([2, 0], ['cat', 'dog', 'fox'])
    """
    splits = dict(splits)
    for column in columns:
        features = [rows.features.get(column) for rows in splits.values()]
        if isinstance(features[0], ClassLabel) and all(feature == features[0] for feature in features):
            continue
        values = {name: _column_names(rows, column, name) for name, rows in splits.items()}
        known: list[Any] = next((feature.names for feature in features if isinstance(feature, ClassLabel)), [])
        found = {value for own in values.values() for value in own if value is not None}
        found |= {name for feature in features if isinstance(feature, ClassLabel) for name in feature.names}
        if len({isinstance(value, str) for value in found}) > 1:
            raise ValueError(f"column '{column}' holds names in one split and numbers in another: give one kind")
        names = [*known, *sorted(found - set(known))]
        index, label = {name: i for i, name in enumerate(names)}, ClassLabel(names=[str(name) for name in names])
        for name, rows in splits.items():
            splits[name] = _replaced(rows, column, [index.get(value) for value in values[name]], label)
        shown = ", ".join(f"{i} {name}" for i, name in list(enumerate(names))[:_SHOWN])
        more = ", ..." if len(names) > _SHOWN else ""
        _logger.warning(f"column '{column}' of {', '.join(splits)}: {len(names)} classes are numbered {shown}{more}")
        _warn_of_unseen(values, column)
    return DatasetDict(splits)


def _warn_of_unseen(values: Mapping[str, Sequence[Any]], column: str) -> None:
    """Warns of classes that training has no row of: misspelt, or never to be answered."""
    for split, own in values.items():
        seen = {None, *values.get("train", own)}
        unseen = Counter(value for value in own if value not in seen)
        for name, count in unseen.items():
            _logger.warning(f"column '{column}': {name!r} is in {split} ({count} rows), not in train: is it misspelt?")


def _column_names(rows: Dataset, column: str, split: str) -> list[Any]:
    """The values of a column: strings or integers; of a `ClassLabel` its names."""
    feature = rows.features.get(column)
    if not is_scalar(feature, "string", "large_string", "int", "uint", "float", "bool"):
        found = "missing" if feature is None else f"{feature}"
        raise ValueError(f"column '{column}' of {split} is {found}: give one name or whole number a row, no list")
    values = rows.select_columns(column).with_format("arrow")[:][column].to_pylist()
    if isinstance(feature, ClassLabel):
        return [None if value is None or value < 0 else feature.names[value] for value in values]
    if "string" in feature.dtype:
        return values
    return [None if value is None or value != value else whole_number(value, column) for value in values]


def with_classes(dataset: Any, names: Sequence[str], label_column: str = "label", whose: str = "the data set") -> Any:
    """Returns the dataset with its classes numbered in the order of `names`, matched by name; some may be missing.

    Classes that were never named (`0`, `1`, ... or `LABEL_0`, ...) say nothing beside words, and are left as they are.

    Args:
        dataset (`Dataset` or `IterableDataset`): Labels stand in `labels`, `label_column` or both.
        whose (`str`): How an error calls the dataset.

    Raises:
        ValueError: If a class is none of `names`; the message lists the difference.

    Example:
        >>> with_classes(rows, ["dog", "cat"])["label"][:], rows["label"][:]
        ([1, 0, 1, 0], [0, 1, 0, 1])
        >>> with_classes(rows, ["dog", "fox"])
        Traceback (most recent call last):
        ValueError: the classes of the data set are cat, dog, and dog, fox are expected: cat is not expected, fox is ...
    """
    features, names = dataset.features or {}, list(names)
    for column in dict.fromkeys((own_label_column(features, label_column), LABELS, label_column)):
        feature = features.get(column)
        label = feature.feature if isinstance(feature, List) else feature
        if not isinstance(label, ClassLabel) or label.names == names or _say_nothing(label.names, names):
            continue
        if not set(label.names) <= set(names) or len(set(label.names)) < len(label.names):
            if column != own_label_column(features, label_column):
                continue
            raise ValueError(
                f"the classes of {whose} are {_listed(label.names)}, and {_listed(names)} are expected:"
                f" {_difference(label.names, names)}. Number all parts at once with"
                f" `hf_pgg.data.labels.encode_classes(splits, '{column}')`, or name the classes alike"
            )
        new = ClassLabel(names=names)
        numbers = [names.index(name) for name in label.names]
        dataset = _renumbered(dataset, column, numbers, List(new) if isinstance(feature, List) else new)
        _logger.warning(f"the classes of {whose} are renumbered by name: {_listed(names)}")
    return dataset


def _say_nothing(found: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether one of two lists of names holds none; numbers say something of other numbers, which a file may name."""
    both = (list(found), list(expected))
    if all(name.lstrip("-").isdigit() for name in (*found, *expected)):
        return False
    return any(names == [f"{prefix}{i}" for i in range(len(names))] for names in both for prefix in ("", "LABEL_"))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", ... ({len(names)})" if len(names) > _SHOWN else "")


def _difference(found: Sequence[str], expected: Sequence[str]) -> str:
    extra, absent = (
        [name for name in one if name not in other] for one, other in ((found, expected), (expected, found))
    )
    parts = [(extra, "not expected"), (absent, "missing")]
    told = [f"{_listed(names)} {'is' if len(names) == 1 else 'are'} {what}" for names, what in parts if names]
    return ", ".join(told) or "a name stands twice"


def _renumbered(dataset: Any, column: str, numbers: Sequence[int], feature: Any) -> Any:
    def new(value: Any) -> Any:
        if isinstance(value, (list, tuple, np.ndarray)):
            return [new(one) for one in value]
        return value if value is None or value < 0 else numbers[value]

    if isinstance(dataset, IterableDataset):
        return dataset.map(
            lambda row: {column: new(row[column])}, features=Features({**dataset.features, column: feature})
        )
    stored = dataset.with_format("arrow").select_columns(column)[:][column]
    return _replaced(dataset, column, [new(value) for value in stored.to_pylist()], feature)


def _replaced(dataset: Dataset, column: str, values: list[Any], feature: Any) -> Dataset:
    """The dataset with other values in a column, at its place and in its format."""
    order, form = dataset.column_names, dataset.format
    plain = (
        dataset.with_format(None).rename_column(column, f"{column} before").add_column(column, values, feature=feature)
    )
    kept = {name: form[name] for name in ("type", "columns", "output_all_columns")}
    return plain.select_columns(order).with_format(**kept, **form["format_kwargs"])


def _no_classes(column: str, found: str, features: Features) -> ValueError:
    return ValueError(
        f"column '{column}' is {found}, not a ClassLabel; the columns are {sorted(features)}. Name the column of the"
        " classes, or number its values over all splits at once with"
        f" `hf_pgg.data.labels.encode_classes(splits, '{column}')`."
    )
