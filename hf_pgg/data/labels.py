"""labels."""

from __future__ import annotations

from datasets import ClassLabel, Features

from hf_pgg.data.provenance import LABELS


def class_label(features: Features, label_column: str = "label") -> ClassLabel:
    """The `ClassLabel` of a dataset: that of `labels` where it keeps the contract, else of `label_column`.

    Raises:
        ValueError: If there is no such column or it is not a `ClassLabel`.
    """
    feature = features[LABELS].feature if LABELS in features else features.get(label_column)
    if not isinstance(feature, ClassLabel):
        raise ValueError(
            f"column '{label_column}' is {'missing' if feature is None else f'a {type(feature).__name__}'}, not a"
            f" ClassLabel; the columns are {sorted(features)}. Name the label column, and turn it into classes with"
            f" `dataset.class_encode_column('{label_column}')`."
        )
    return feature
