"""The contract: which pixels of a training sample come from which label's target object.

A sample keeps its provenance beside it in an ordinary `datasets.Dataset`:

| column          | feature                    | meaning                                                        |
| --------------- | -------------------------- | -------------------------------------------------------------- |
| `image`         | `Image()`                  | the synthetic sample; a clip is in `video` instead             |
| `labels`        | `List(ClassLabel)`, K      | the label of each source                                       |
| `label_weights` | `List(Value("float32"))`, K| share of each label in the training target, sums to 1          |
| `provenance`    | `List(Image(mode="L"))`, K | 255 where the pixel comes from that label's target, 0 where not |

`video` is `Video(decode=False)` or `List(Image())`; each of its masks holds the T frames' masks, stacked from top to
bottom. `provenance = None` means that nothing is known, hence *no guidance*: neither "all target" nor "all background".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from hf_pgg.pictures import boxes_to_mask, decode_mask, encode_mask, open_picture
from hf_pgg.video import probe

IMAGE = "image"
VIDEO = "video"
LABELS = "labels"
LABEL_WEIGHTS = "label_weights"
PROVENANCE = "provenance"
CONTRACT_COLUMNS = (IMAGE, LABELS, LABEL_WEIGHTS, PROVENANCE)

PADDING_LABEL = -100
_WEIGHT_TOLERANCE = 1e-3  # float32 weights of many sources do not sum to 1 exactly
_OVERLAP_TOLERANCE = 2  # of 255: complementary soft masks are rounded separately


class ProvenanceError(ValueError):
    """A row does not keep the contract. The message names the row, the column and the remedy."""

    def __init__(self, row: object, column: str, problem: str, remedy: str):
        super().__init__(f"row {row}, column '{column}': {problem.rstrip('.')}. {remedy}")


# ---------------------------------------------------------------------------------------------- features


def provenance_features(label: ClassLabel, *, video: Any = None, **extra: Any) -> Features:
    """The `Features` of a dataset that keeps the contract.

    Args:
        label (`ClassLabel`): The classes.
        video (*optional*): `Video(decode=False)` or `List(Image())`: the feature of the clips that stand in place of
            the pictures.
        extra: Further columns, name to feature.
    """
    return Features(
        {
            **({IMAGE: Image()} if video is None else {VIDEO: video}),
            LABELS: List(label),
            LABEL_WEIGHTS: List(Value("float32")),
            PROVENANCE: List(Image(mode="L")),
            **extra,
        }
    )


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


# ---------------------------------------------------------------------------------------------- one row


def sources_of(
    row: Mapping[str, Any], shape: tuple[int, ...], label_column: str = "label"
) -> tuple[list[int], list[float], list[np.ndarray]]:
    """Labels, weights and float masks in [0, 1] of a row's sources, of `shape` (H, W), or (T, H, W) for a clip.

    A row with a single label and no provenance is one source whose target is the whole picture: what a mixing
    method such as CutMix assumes.
    """
    if row.get(LABELS) is None:
        if row.get(label_column) is None:
            raise KeyError(f"the row has neither '{LABELS}' nor '{label_column}'; its columns are {sorted(row)}")
        return [int(row[label_column])], [1.0], [np.ones(shape, np.float32)]
    labels, weights = list(row[LABELS]), list(row[LABEL_WEIGHTS])
    if row.get(PROVENANCE) is None:
        return labels, weights, [np.ones(shape, np.float32) for _ in labels]
    num_frames = shape[0] if len(shape) == 3 else None
    return labels, weights, [decode_mask(mask, num_frames).astype(np.float32) / 255 for mask in row[PROVENANCE]]


def _sample_shape(
    row: Mapping[str, Any], image_column: str = IMAGE, video_column: str | None = None
) -> tuple[int, int, int]:
    """(T, height, width) of a row's clip, or of its picture with T = 1; its masks are T * height pixels high."""
    if video_column is None:
        return (1, *open_picture(row.get(image_column)).size[::-1])
    clip = probe(row.get(video_column))
    return clip.num_frames, clip.height, clip.width


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
    """Checks one row against the contract.

    Args:
        row: The row; pictures and masks decoded or as `{"bytes", "path"}`.
        name: How the error names the row (its index or id).
        num_classes (`int`): Number of classes of the model.
        video_column (`str`, *optional*): The column of the clips, where the samples are clips.
        allow_overlap (`bool`, *optional*, defaults to `False`): Whether masks of different sources may sum over 1,
            as after a declared dilation.

    Raises:
        ProvenanceError: Naming the row, the column and the remedy.
    """
    try:
        num_frames, height, width = _sample_shape(row, image_column, video_column)
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
    """Checks labels, weights and masks of a row whose sample is known: the part of [`validate_row`] for any modality.

    Args:
        size: (width, height) in pixels of a mask as it is stored.
    """
    plain = row.get(LABELS) is None
    labels = [row.get(label_column)] if plain else row[LABELS]
    column = label_column if plain else LABELS
    if not labels or any(label is None for label in labels):
        raise ProvenanceError(name, column, "there is no label", f"Give every row '{label_column}' or '{LABELS}'.")
    for label in map(int, labels):
        if not 0 <= label < num_classes:
            raise ProvenanceError(
                name, column, f"label {label} is outside 0..{num_classes - 1}", "Set `num_labels` of the model."
            )
    if not plain:
        _validate_weights(row.get(LABEL_WEIGHTS), len(labels), name)
    if row.get(PROVENANCE) is not None:
        _validate_masks(row[PROVENANCE], len(labels), size, name, allow_overlap)


def _validate_weights(weights: Sequence[float] | None, count: int, name: object) -> None:
    if weights is None or len(weights) != count:
        found = "missing" if weights is None else f"of length {len(weights)}"
        raise ProvenanceError(name, LABEL_WEIGHTS, f"{found}, with {count} labels", "Give one weight a label.")
    if not np.isfinite(weights).all() or min(weights) < 0 or abs(sum(weights) - 1) > _WEIGHT_TOLERANCE:
        raise ProvenanceError(
            name,
            LABEL_WEIGHTS,
            f"{list(weights)} sums to {sum(weights):.4g}, not 1",
            "Divide the weights by their sum.",
        )


def _validate_masks(masks: Sequence[Any], count: int, size: tuple[int, int], name: object, allow_overlap: bool) -> None:
    if len(masks) != count:
        raise ProvenanceError(name, PROVENANCE, f"{len(masks)} masks, {count} labels", "Give one mask a label.")
    total = np.zeros(size[::-1], np.int64)
    for mask in masks:
        try:
            decoded = decode_mask(mask)
        except (ValueError, OSError) as error:
            raise ProvenanceError(name, PROVENANCE, str(error), "Encode it with `encode_mask`.") from error
        if decoded.shape != total.shape:
            raise ProvenanceError(
                name,
                PROVENANCE,
                f"mask of {decoded.shape[1]}x{decoded.shape[0]} for a picture of {size[0]}x{size[1]}",
                "Resize the mask with its picture.",
            )
        total += decoded
    if not allow_overlap and total.max() > 255 + _OVERLAP_TOLERANCE:
        raise ProvenanceError(
            name,
            PROVENANCE,
            f"the masks sum to {total.max() / 255:.2f} at some pixel",
            "A pixel comes from one source: make the masks disjoint, or set `allow_overlap=True`, as for dilated ones.",
        )


# ---------------------------------------------------------------------------------------------- a whole dataset


def add_provenance(
    dataset: Dataset,
    *,
    mask_column: str | None = None,
    box_column: str | None = None,
    image_column: str = IMAGE,
    video_column: str | None = None,
    label_column: str = "label",
    target_value: int | None = None,
    **map_kwargs: Any,
) -> Dataset:
    """Turns a user's own mask or box column into provenance.

    Rows whose mask or box is None get `provenance = None`, hence no guidance.

    Args:
        dataset (`Dataset`): With a picture and a single-label column.
        mask_column (`str`, *optional*): A mask image: zero is background, the highest value the target; or a label
            map, with `target_value`.
        box_column (`str`, *optional*): Boxes `[x, y, width, height]` in pixels of the picture, one or a list; of a
            clip, one for each frame.
        video_column (`str`, *optional*): The column of the clips, where the samples are clips. Their masks are stacked
            from top to bottom in one picture.
        target_value (`int`, *optional*): The value of the target in a label map (1 in the Oxford pets trimaps).
        map_kwargs: Passed on to `Dataset.map` (`num_proc`, `batch_size`, ...).

    Raises:
        ValueError: If not exactly one of `mask_column` and `box_column` is given, or a column is missing.
    """
    if (mask_column is None) == (box_column is None):
        raise ValueError("give either `mask_column` or `box_column`")
    column = mask_column or box_column
    sample_column = video_column or image_column
    for needed in (sample_column, label_column, column):
        if needed not in dataset.column_names:
            raise ValueError(f"column '{needed}' is not in the dataset; its columns are {dataset.column_names}")

    video = None if video_column is None else dataset.features[video_column]
    label = class_label(dataset.features, label_column)
    features = Features({**dataset.features, **provenance_features(label, video=video)})
    if video is None:
        features[IMAGE] = dataset.features[image_column]
    # the sample is kept where it stands: a row function that returned it would encode every picture anew
    return dataset.map(
        _row_to_provenance,
        with_indices=True,
        fn_kwargs={
            "column": column,
            "is_box": box_column is not None,
            "image_column": image_column,
            "video_column": video_column,
            "label_column": label_column,
            "target_value": target_value,
        },
        features=features if sample_column == (IMAGE if video is None else VIDEO) else None,
        **map_kwargs,
    )


def _row_to_provenance(
    row: Mapping[str, Any],
    index: int,
    *,
    column: str,
    is_box: bool,
    image_column: str,
    video_column: str | None,
    label_column: str,
    target_value: int | None,
) -> dict[str, Any]:
    known = row[column]
    out: dict[str, Any] = {LABELS: [row[label_column]], LABEL_WEIGHTS: [1.0], PROVENANCE: None}
    if known is None:
        return out
    num_frames, height, width = _sample_shape(row, image_column, video_column)
    if is_box:
        boxes = [known] if video_column is None else known
        if len(boxes) != num_frames:
            problem = f"{len(boxes)} boxes for a clip of {num_frames} frames"
            raise ProvenanceError(index, column, problem, "Give every frame its box, or its list of boxes.")
        of_frames = [np.asarray(frame, dtype=np.float64).reshape(-1, 4) for frame in boxes]
        mask = np.concatenate([boxes_to_mask(of_frame, (height, width)) for of_frame in of_frames])
    elif target_value is not None:
        mask = np.array(open_picture(known)) == target_value
    else:
        values = np.array(open_picture(known).convert("L"))
        mask = values / max(int(values.max()), 1)
    if mask.shape != (num_frames * height, width):
        raise ProvenanceError(
            index,
            column,
            f"mask of {mask.shape[1]}x{mask.shape[0]} for a picture of {width}x{num_frames * height}",
            "Resize the mask with its picture.",
        )
    out[PROVENANCE] = [encode_mask(mask)]
    return out


# ---------------------------------------------------------------------------------------------- a batch


def pad_sources(
    labels: Sequence[Sequence[int]], label_weights: Sequence[Sequence[float]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (B, K) int64, padded with -100, and weights (B, K) float32, padded with 0; K is the rows' largest."""
    places = max(map(len, labels))
    padded = torch.full((len(labels), places), PADDING_LABEL, dtype=torch.int64)
    weights = torch.zeros(len(labels), places)
    for i, (row_labels, row_weights) in enumerate(zip(labels, label_weights, strict=True)):
        padded[i, : len(row_labels)] = torch.tensor(row_labels)
        weights[i, : len(row_weights)] = torch.tensor(row_weights)
    return padded, weights


def merge_sources(
    labels: torch.Tensor, label_weights: torch.Tensor, provenance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Merges sources that share a label, so that the labels of a sample are distinct.

    I_c = min(1, sum of the masks with label c). Without this, mixing two pictures of one class would suppress that
    class's gradient everywhere.

    Args:
        labels (`torch.Tensor`): (B, K) int64, padded with -100.
        label_weights (`torch.Tensor`): (B, K) float.
        provenance (`torch.Tensor`): (B, K, ...) float in [0, 1].

    Returns:
        The same three; a repeated label's later places become padding (-100, 0, 0).
    """
    same = (labels[:, :, None] == labels[:, None, :]) & (labels >= 0)[:, :, None]
    first = (labels >= 0) & ~same.tril(-1).any(-1)
    if first.all():
        return labels, label_weights, provenance
    weights = torch.einsum("bkj,bj->bk", same.to(label_weights.dtype), label_weights)
    masks = torch.einsum("bkj,bj...->bk...", same.to(provenance.dtype), provenance).clamp(max=1)
    keep = first.view(first.shape + (1,) * (provenance.ndim - 2))
    return (
        labels.masked_fill(~first, PADDING_LABEL),
        weights.masked_fill(~first, 0),
        masks.masked_fill(~keep, 0),
    )
