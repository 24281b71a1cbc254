"""Rows of every (label, bias) group to generate images of: From-Fake-to-Real's balanced synthetic data."""

from __future__ import annotations

from datasets import ClassLabel, Dataset, concatenate_datasets


def under_every_value(rows: Dataset, column: str) -> Dataset:
    """The rows once for each value of a `ClassLabel` column, which is set to it: every label under every bias.

    A prompt that names the column, or a model that is conditioned on it, then makes images of groups that the rows
    hardly show; `hf_pgg.data.groups.take_per_group` takes as many of each as `subgroup_counts` says.

    Raises:
        ValueError: If there is no such column or it is not a `ClassLabel`.
    """
    label = rows.features.get(column)
    if not isinstance(label, ClassLabel):
        found = f"is {label}" if label is not None else f"is not among {', '.join(rows.column_names)}"
        raise ValueError(f"column '{column}' {found}: a ClassLabel says which values there are")
    others = rows.remove_columns(column)
    return concatenate_datasets(
        [others.add_column(column, [value] * len(rows), feature=label) for value in range(label.num_classes)]
    )
