"""Groups, the combinations of a label and a bias such as a background: counting them, and drawing rows by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from datasets import ClassLabel, Dataset, Image, List, Value, concatenate_datasets
from numpy.typing import ArrayLike
from sklearn.model_selection import StratifiedGroupKFold

from hf_pgg.data.labels import class_feature, is_scalar
from hf_pgg.data.provenance import LABEL_WEIGHTS, LABELS, PROVENANCE

GROUP = "group"
RULES = ("usb", "asb", "ffr")
SOURCE = ClassLabel(names=["real", "synthetic"])


def hold_out(
    dataset: Dataset, share: float, label_column: str, source_column: str | None = None
) -> tuple[Dataset, Dataset]:
    """Parts rows into those to train on and a share that makes choices; classes keep their proportions.

    Args:
        share (`float`): Share of the rows that is held out.
        source_column (`str`, *optional*): What a row was cut from, such as a video; one source stays on one side.

    Example:
        >>> kept, held_out = hold_out(rows, 0.5, "label")
        >>> sorted(held_out["label"])
        [0, 1]
    """
    folds = StratifiedGroupKFold(round(1 / share), shuffle=True, random_state=0)
    sources = dataset[source_column] if source_column else range(len(dataset))
    kept, held_out = next(folds.split(np.zeros(len(dataset)), dataset[label_column], list(sources)))
    return dataset.select(kept), dataset.select(held_out)


def column_values(dataset: Dataset, column: str) -> np.ndarray:
    """Returns a column of classes or integers as (N,) int64.

    Raises:
        ValueError: If a row has no value, or the values are not classes or integers.

    Example:
        >>> column_values(rows, "label")
        array([0, 1, 0, 1])
    """
    feature = dataset.features[column]
    if not is_scalar(feature, "int", "uint"):
        raise ValueError(
            f"column '{column}' is {feature}, not classes or integers: number its values over all splits at once with"
            f" `hf_pgg.data.labels.encode_classes(splits, '{column}')`"
        )
    values = dataset.select_columns(column).with_format("arrow")[:][column]
    if values.null_count or (len(values) and values.to_numpy().min() < 0):
        raise ValueError(f"column '{column}' has rows without a value: remove them, they belong to no group")
    return values.to_numpy().astype(np.int64)


def count_groups(dataset: Dataset, label_column: str, bias_column: str) -> np.ndarray:
    """Counts the rows of each group, (labels, biases) int64, of two `ClassLabel` columns (else ValueError).

    Example:
        >>> scenes = ClassLabel(names=["beach", "forest"])
        >>> count_groups(rows.add_column("scene", [0, 1, 0, 0], feature=scenes), "label", "scene")
        array([[2, 0],
               [1, 1]])
    """
    shape = [class_feature(dataset.features, column).num_classes for column in (label_column, bias_column)]
    index = column_values(dataset, label_column) * shape[1] + column_values(dataset, bias_column)
    return np.bincount(index, minlength=shape[0] * shape[1]).reshape(shape)


def add_groups(dataset: Dataset, columns: Sequence[str], name: str = GROUP) -> Dataset:
    """Adds the group of each row as a `ClassLabel` of all combinations of `columns`, which are `ClassLabel`s.

    USB and ASB train on groups of (label, bias, real or synthetic): name the column of the source as the third.

    Example:
        >>> scenes = ClassLabel(names=["beach", "forest"])
        >>> own = rows.add_column("scene", [0, 1, 0, 0], feature=scenes)
        >>> add_groups(own, ["label", "scene"]).features["group"].names
        ['cat / beach', 'cat / forest', 'dog / beach', 'dog / forest']
    """
    classes = [class_feature(dataset.features, column) for column in columns]
    names = [" / ".join(parts) for parts in product(*(found.names for found in classes))]
    index = np.zeros(len(dataset), np.int64)
    for column, found in zip(columns, classes, strict=True):
        index = index * found.num_classes + column_values(dataset, column)
    return dataset.add_column(name, index.tolist(), feature=ClassLabel(names=names))


def subgroup_counts(real: ArrayLike, rule: str, possible: ArrayLike | None = None) -> np.ndarray:
    """Says how many synthetic rows each group gets, (labels, biases), from the number of its real rows.

    `"usb"` tops every group up to the largest one: n_syn = sum_g (max n - n_g). `"ffr"` (stage one) and `"asb"` (added
    to the real rows) share the same total evenly: floor(n_syn / groups) each.

    Args:
        possible (`ArrayLike`, *optional*): bool, (labels, biases): the groups that can exist, by default all. The
            others get no row and do not count: SpuCo Animals has 8 of 16.

    Raises:
        ValueError: If the rule is unknown, the counts are no table of counts, or a group that has rows is impossible.

    Example:
        >>> subgroup_counts([[90, 10], [10, 90]], "usb")
        array([[ 0, 80],
               [80,  0]])
    """
    real = np.asarray(real)
    if rule not in RULES:
        raise ValueError(f"rule '{rule}' is none of {', '.join(RULES)}")
    if real.ndim != 2 or not np.issubdtype(real.dtype, np.integer) or real.size == 0 or real.min() < 0:
        raise ValueError(f"`real` is {real.tolist()}: give a (labels, biases) table of counts >= 0")
    exists = np.ones(real.shape, bool) if possible is None else np.asarray(possible)
    if exists.shape != real.shape or exists.dtype != bool or (real[~exists] > 0).any() or not exists.any():
        raise ValueError(
            f"`possible` is {exists.tolist()} for counts of {real.tolist()}: give a table of booleans of the same"
            " shape, True for every group that has rows"
        )
    missing = np.where(exists, real.max() - real.astype(np.int64), 0)
    return missing if rule == "usb" else np.where(exists, missing.sum() // exists.sum(), 0)


def take_per_group(dataset: Dataset, counts: ArrayLike, label_column: str, bias_column: str, seed: int = 0) -> Dataset:
    """Draws rows of each group without replacement; they stay in the order of the dataset.

    A smaller one of the `counts` (labels, biases) takes a part of what a larger one takes. A group of too few rows is a
    ValueError, which names it.

    Example:
        >>> scenes = ClassLabel(names=["beach", "forest"])
        >>> own = rows.add_column("scene", [0, 1, 0, 0], feature=scenes)
        >>> take_per_group(own, [[0, 0], [1, 1]], "label", "scene")["row_id"][:]
        [1, 3]
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
        of_group = np.flatnonzero((labels == y) & (biases == b))
        chosen.append(np.random.default_rng([seed, y, b]).permutation(of_group)[: counts[y, b]])
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
        ratio (`float`): Above 0, at most 1; 0.99 leaves one row in a hundred off the majority.
        majority (`Mapping[int, int]`, *optional*): Label to bias value; by default value i goes with label i.
        allow_empty (`bool`): Whether groups may be left without a row.

    Raises:
        ValueError: If a group has too few rows or would have none; the message names it.

    Example:
        >>> scenes = ClassLabel(names=["beach", "forest"])
        >>> own = rows.add_column("scene", [0, 1, 1, 0], feature=scenes)
        >>> biased_split(own, "label", "scene", ratio=1.0, allow_empty=True)["row_id"][:]
        [0, 1]
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
    for label, value in [] if allow_empty else np.argwhere(counts == 0):
        raise ValueError(
            f"ratio {ratio} leaves group {_group_name(dataset, label_column, label, bias_column, value)} without a"
            " real row: no method can be judged on it. Lower the ratio, add rows, or pass `allow_empty=True`"
        )
    return take_per_group(dataset, counts, label_column, bias_column, seed)


def missing_groups(dataset: Dataset, label_column: str, bias_column: str) -> list[str]:
    """Returns the names of the (label, bias) groups that have no row; a worst group is measured over all.

    Example:
        >>> missing_groups(rows, "label", "label")
        ['cat / dog', 'dog / cat']
    """
    empty = np.argwhere(count_groups(dataset, label_column, bias_column) == 0)
    labels, biases = (class_feature(dataset.features, column).names for column in (label_column, bias_column))
    return [f"{labels[y]} / {biases[b]}" for y, b in empty]


def mark_source(rows: Dataset, source: str, image_column: str, label_column: str, bias_column: str) -> Dataset:
    """Returns rows with the columns that real and synthetic rows share, so that they can be joined.

    Those are the image, label and bias, the contract's columns (provenance is None where nothing is known), and the
    class `source` (`"real"` or `"synthetic"`), which is the third of the groups that mixed rows are balanced by.

    Example:
        >>> scenes_too = scenes.add_column("bias", [0, 1], feature=scenes.features["label"])
        >>> mark_source(scenes_too, "synthetic", "image", "label", "bias")["provenance"][:]
        [None, None]
    """
    label = class_feature(rows.features, label_column)
    if LABELS not in rows.column_names:
        rows = rows.add_column(LABELS, [[value] for value in rows[label_column]], feature=List(label))
        rows = rows.add_column(LABEL_WEIGHTS, [[1.0]] * len(rows), feature=List(Value("float32")))
    if PROVENANCE not in rows.column_names:
        rows = rows.add_column(PROVENANCE, [None] * len(rows), feature=List(Image(mode="L")))
    rows = rows.select_columns([image_column, label_column, bias_column, LABELS, LABEL_WEIGHTS, PROVENANCE])
    return rows.add_column("source", [SOURCE.str2int(source)] * len(rows), feature=SOURCE)


def under_every_value(rows: Dataset, column: str) -> Dataset:
    """Returns the rows once for each value of a `ClassLabel` column, which is set to it: every label under every bias.

    A prompt that names the column, or a model that is conditioned on it, then makes images of groups that the rows
    hardly show; [`take_per_group`] takes as many of each as [`subgroup_counts`] says. A column that is not a
    `ClassLabel` raises a `ValueError`.

    Example:
        >>> doubled = under_every_value(rows, "label")
        >>> len(rows), len(doubled), doubled["label"][:4]
        (4, 8, [0, 0, 0, 0])
    """
    label, others = class_feature(rows.features, column), rows.remove_columns(column)
    return concatenate_datasets(
        [others.add_column(column, [value] * len(rows), feature=label) for value in range(label.num_classes)]
    )


def _group_name(dataset: Dataset, label_column: str, label: int, bias_column: str, bias: int) -> str:
    names = [class_feature(dataset.features, column).names for column in (label_column, bias_column)]
    return f"({label_column} '{names[0][label]}', {bias_column} '{names[1][bias]}')"
