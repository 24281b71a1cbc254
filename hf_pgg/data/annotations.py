"""annotations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset, Features

from hf_pgg.data.images import encode_mask, open_image
from hf_pgg.data.labels import class_label
from hf_pgg.data.provenance import IMAGE, LABEL_WEIGHTS, LABELS, PROVENANCE, VIDEO, ProvenanceError, provenance_features
from hf_pgg.data.video import _sample_shape


def mask_to_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box (x, y, width, height) in pixels around a bool mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def boxes_to_mask(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(N, 4) boxes `[x, y, width, height]` in pixels to one bool mask (H, W): the pixels whose centre lies in a box."""
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    mask = np.zeros(shape, bool)
    for x, y, width, height in boxes:
        mask |= np.outer((rows >= y) & (rows <= y + height), (columns >= x) & (columns <= x + width))
    return mask


def rows_with_boxes(dataset: Dataset, box_column: str) -> Dataset:
    """The rows whose boxes are neither None nor an empty list."""
    return dataset.select(_boxed(dataset[box_column]))


def _boxed(boxes: Iterable[Any]) -> list[int]:
    return [i for i, box in enumerate(boxes) if box is not None and np.size(box)]


def annotation(value: Any, original_size: tuple[int, int]) -> np.ndarray:
    """A mask or label map (H, W) as it is stored, of an image of `original_size` (width, height).

    Raises:
        ValueError: If it is of another size.
    """
    mask = open_image(value)
    if mask.size != original_size:
        raise ValueError(
            f"a mask of {mask.size[0]}x{mask.size[1]} for an image of {original_size[0]}x{original_size[1]}"
        )
    return np.array(mask.convert("L") if mask.mode in ("RGB", "RGBA", "LA") else mask)


def object_mask(values: np.ndarray, target_value: int | None = None) -> np.ndarray:
    """The object's pixels of an annotation (H, W): `target_value` of a label map, or the upper half of a mask."""
    return values == target_value if target_value is not None else values > values.max() / 2


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
        dataset (`Dataset`): With an image and a single-label column.
        mask_column (`str`, *optional*): A mask image: zero is background, the highest value the target; or a label
            map, with `target_value`.
        box_column (`str`, *optional*): Boxes `[x, y, width, height]` in pixels of the image, one or a list; of a
            clip, one for each frame.
        video_column (`str`, *optional*): The column of the clips, where the samples are clips. Their masks are stacked
            from top to bottom in one image.
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
    # the sample is kept where it stands: a row function that returned it would encode every image anew
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
        mask = np.array(open_image(known)) == target_value
    else:
        values = np.array(open_image(known).convert("L"))
        mask = values / max(int(values.max()), 1)
    if mask.shape != (num_frames * height, width):
        raise ProvenanceError(
            index,
            column,
            f"mask of {mask.shape[1]}x{mask.shape[0]} for an image of {width}x{num_frames * height}",
            "Resize the mask with its image.",
        )
    out[PROVENANCE] = [encode_mask(mask)]
    return out
