"""The classes of a dataset: which column holds them, and what they are called."""

from __future__ import annotations

from datasets import ClassLabel, Features

from hf_pgg.data.provenance import LABELS


def class_feature(features: Features, column: str) -> ClassLabel:
    """Returns the `ClassLabel` of a column.

    Raises:
        ValueError: If there is no such column or it is not a `ClassLabel`.

    Example:
        >>> class_feature(rows.features, "label").names
        ['cat', 'dog']
    """
    feature = features.get(column)
    if not isinstance(feature, ClassLabel):
        raise _no_classes(column, "missing" if feature is None else repr(feature), features)
    return feature


def class_label(features: Features, label_column: str = "label") -> ClassLabel:
    """Returns the classes of a dataset: those of `labels` where it keeps the contract, else of `label_column`.

    Raises:
        ValueError: If there is no such column or it is not a `ClassLabel`.

    Example:
        >>> class_label(rows.select_columns("labels").features).names
        ['cat', 'dog']
    """
    feature = features[LABELS].feature if LABELS in features else features.get(label_column)
    if not isinstance(feature, ClassLabel):
        found = "missing" if feature is None else f"a {type(feature).__name__}"
        raise _no_classes(label_column, found, features)
    return feature


def _no_classes(column: str, found: str, features: Features) -> ValueError:
    return ValueError(
        f"column '{column}' is {found}, not a ClassLabel; the columns are {sorted(features)}. Name the column of the"
        f" classes, or turn it into classes with `dataset.class_encode_column('{column}')`."
    )
