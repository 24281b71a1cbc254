"""Checks of rows against the contract, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_pgg.data.provenance import IMAGE, PROVENANCE, ProvenanceError, naming_row, row_labels, sources_of
from hf_pgg.data.video import sample_shape

_OVERLAP_TOLERANCE = 2  # of 255: complementary soft masks are rounded separately


def validate_row(
    row: Mapping[str, Any],
    name: object,
    num_classes: int,
    *,
    image_column: str = IMAGE,
    video_column: str | None = None,
    label_column: str = "label",
    allow_overlap: bool = False,
) -> None:
    """Checks one row against the contract; a ProvenanceError names the row, the column and the remedy.

    Args:
        name: How the error names the row (its index or id).
        num_classes (`int`): Number of classes of the model.
        allow_overlap (`bool`): Whether masks of different sources may sum to more than 1, as after a declared dilation.

    Example:
        >>> validate_row({"image": rows[0]["image"], "label": 5}, 7, num_classes=2)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        hf_pgg.data.provenance.ProvenanceError: row 7, column 'label': label 5 is outside 0..1. Set `num_labels` ...
    """
    try:
        num_frames, height, width = sample_shape(row, image_column, video_column)
    except (ValueError, OSError) as error:
        raise ProvenanceError(name, video_column or image_column, str(error), "Replace or remove the row.") from error
    size = (width, num_frames * height)
    validate_sources(row, name, num_classes, size, label_column=label_column, allow_overlap=allow_overlap)


def validate_sources(
    row: Mapping[str, Any],
    name: object,
    num_classes: int,
    size: tuple[int, int],
    *,
    label_column: str = "label",
    allow_overlap: bool = False,
) -> None:
    """Checks labels, weights and masks of a row: the part of [`validate_row`] for any modality.

    `size` is the (width, height) in pixels of a mask as it is stored.

    Example:
        >>> validate_sources({**rows[0], "labels": [0, 1]}, 7, num_classes=2, size=(16, 16))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        hf_pgg.data.provenance.ProvenanceError: row 7, column 'label_weights': of length 1, with 2 labels. Give one ...
    """
    with naming_row(name, label_column):
        column, labels, _ = row_labels(row, label_column)
    for label in labels:
        if label >= num_classes:
            problem = f"label {label} is outside 0..{num_classes - 1}"
            raise ProvenanceError(name, column, problem, "Set `num_labels` of the model.")
    if row.get(PROVENANCE) is None:
        return
    with naming_row(name, PROVENANCE):
        known = [mask for mask in sources_of(row, size[::-1], label_column).masks if mask is not None]
    total = sum(known, np.zeros(size[::-1])).max()
    if not allow_overlap and total > 1 + _OVERLAP_TOLERANCE / 255:
        remedy = "Make the masks disjoint, or set `allow_overlap=True` where they overlap on purpose (dilated ones do)."
        raise ProvenanceError(name, PROVENANCE, f"the masks sum to {total:.2f} at some pixel", remedy)
