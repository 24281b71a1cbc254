"""groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from datasets import ClassLabel, Dataset
from numpy.typing import ArrayLike

GROUP = "group"
RULES = ("usb", "asb", "ffr")


# ---------------------------------------------------------------------------------------------- groups


def _classes(dataset: Dataset, column: str) -> ClassLabel:
    feature = dataset.features.get(column)
    if not isinstance(feature, ClassLabel):
        raise ValueError(
            f"column '{column}' is {'missing' if feature is None else feature}, not a ClassLabel; the columns are"
            f" {dataset.column_names}. Turn it into classes with `dataset.class_encode_column('{column}')`."
        )
    return feature


def column_values(dataset: Dataset, column: str) -> np.ndarray:
    """(N,) int64, of a column of classes or integers.

    Raises:
        ValueError: If a row has no value.
    """
    values = dataset.select_columns(column).with_format("arrow")[:][column]
    if values.null_count or (len(values) and values.to_numpy().min() < 0):
        raise ValueError(f"column '{column}' has rows without a value: remove them, they belong to no group")
    return values.to_numpy().astype(np.int64)


def count_groups(dataset: Dataset, label_column: str, bias_column: str) -> np.ndarray:
    """(labels, biases) int64: the rows of each group. Both columns are `ClassLabel`s.

    Raises:
        ValueError: If a column is missing, is no `ClassLabel`, or has rows without a value.
    """
    shape = (_classes(dataset, label_column).num_classes, _classes(dataset, bias_column).num_classes)
    index = column_values(dataset, label_column) * shape[1] + column_values(dataset, bias_column)
    return np.bincount(index, minlength=shape[0] * shape[1]).reshape(shape)


def add_groups(dataset: Dataset, columns: Sequence[str], name: str = GROUP) -> Dataset:
    """Adds the group of each row as a `ClassLabel` of all combinations of `columns` (themselves `ClassLabel`s).

    USB and ASB train on groups of (label, bias, real or synthetic): name the column of the source as the third.
    """
    names = [" / ".join(parts) for parts in product(*(_classes(dataset, column).names for column in columns))]
    index = np.zeros(len(dataset), np.int64)
    for column in columns:
        index = index * _classes(dataset, column).num_classes + column_values(dataset, column)
    return dataset.add_column(name, index.tolist(), feature=ClassLabel(names=names))


def subgroup_counts(real: ArrayLike, rule: str) -> np.ndarray:
    """How many synthetic rows each group gets, from the real rows of each.

    `"usb"` tops every group up to the largest one: n_syn = sum_g (max n - n_g). `"ffr"` (stage one) and `"asb"` (added
    to the real rows) share the same total evenly: floor(n_syn / groups) each.

    Args:
        real: (labels, biases) integers >= 0.

    Returns:
        (labels, biases) int64.

    Raises:
        ValueError: If the rule is unknown, or the counts are no table of counts.
    """
    real = np.asarray(real)
    if rule not in RULES:
        raise ValueError(f"rule '{rule}' is none of {', '.join(RULES)}")
    if real.ndim != 2 or not np.issubdtype(real.dtype, np.integer) or real.size == 0 or real.min() < 0:
        raise ValueError(f"`real` is a (labels, biases) table of counts >= 0, not {real.tolist()}")
    missing = real.max() - real.astype(np.int64)
    return missing if rule == "usb" else np.full_like(missing, missing.sum() // real.size)


def take_per_group(dataset: Dataset, counts: ArrayLike, label_column: str, bias_column: str, seed: int = 0) -> Dataset:
    """`counts` (labels, biases) rows of each group, drawn without replacement, in the order of the dataset.

    A smaller count takes a part of what a larger one takes.

    Raises:
        ValueError: Naming a group with too few rows.
    """
    counts, have = np.asarray(counts), count_groups(dataset, label_column, bias_column)
    if counts.shape != have.shape:
        raise ValueError(f"`counts` has shape {counts.shape}, the dataset has {have.shape[0]} labels x {have.shape[1]}")
    labels, biases = column_values(dataset, label_column), column_values(dataset, bias_column)
    chosen = []
    for y, b in np.ndindex(*counts.shape):
        if counts[y, b] > have[y, b]:
            raise ValueError(
                f"group {_group_name(dataset, label_column, y, bias_column, b)} has {have[y, b]} rows,"
                f" {counts[y, b]} are needed: add rows, or ask for fewer"
            )
        rows = np.flatnonzero((labels == y) & (biases == b))
        chosen.append(np.random.default_rng([seed, y, b]).permutation(rows)[: counts[y, b]])
    return dataset.select(np.sort(np.concatenate(chosen)))


def biased_split(
    dataset: Dataset,
    label_column: str,
    bias_column: str,
    ratio: float,
    seed: int = 0,
    *,
    majority: Mapping[int, int] | None = None,
    allow_empty: bool = False,
) -> Dataset:
    """Ties label to bias: of each label's rows, `ratio` have its majority bias value.

    All majority rows are kept, and round(majority (1 - ratio) / ratio) others, shared evenly by the other values.

    Args:
        ratio (`float`): In (0, 1]; 0.99 leaves one row in a hundred off the majority.
        majority (`Mapping`, *optional*): Label -> bias value; by default value i goes with label i.
        allow_empty (`bool`, *optional*, defaults to `False`): Accept groups that are left without a row.

    Raises:
        ValueError: If a group has too few rows or would have none, naming it; or an argument makes no sense.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio is {ratio}: it must be in (0, 1]")
    have = count_groups(dataset, label_column, bias_column)
    labels, biases = have.shape
    if majority is None:
        if labels != biases:
            raise ValueError(f"{labels} labels and {biases} bias values: say which go together in `majority`")
        majority = {label: label for label in range(labels)}
    if set(majority) != set(range(labels)) or not set(majority.values()) <= set(range(biases)):
        raise ValueError(f"`majority` is {dict(majority)}: give each of {labels} labels one of {biases} bias values")
    counts = np.zeros_like(have)
    for label, value in majority.items():
        counts[label, value] = have[label, value]
        others = [(value + 1 + i) % biases for i in range(biases - 1)]
        rest = round(have[label, value] * (1 - ratio) / ratio)
        for i, other in enumerate(others):
            counts[label, other] = rest // len(others) + (i < rest % len(others))
    for label, value in np.argwhere(counts == 0):
        if not allow_empty:
            raise ValueError(
                f"ratio {ratio} leaves group {_group_name(dataset, label_column, label, bias_column, value)} without a"
                " real row: no method can be judged on it. Lower the ratio, add rows, or pass `allow_empty=True`"
            )
    return take_per_group(dataset, counts, label_column, bias_column, seed)


def _group_name(dataset: Dataset, label_column: str, label: int, bias_column: str, bias: int) -> str:
    names = (_classes(dataset, label_column).names[label], _classes(dataset, bias_column).names[bias])
    return f"({label_column} '{names[0]}', {bias_column} '{names[1]}')"
