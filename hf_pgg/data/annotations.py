"""Masks and boxes of objects as a user has them: the readers of both, and how a column of them becomes provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, List
from numpy.typing import ArrayLike

from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import decode_mask, encode_mask, encode_png, open_image, resize_frames, undecoded
from hf_pgg.data.labels import class_label
from hf_pgg.data.provenance import (
    IMAGE,
    LABEL_WEIGHTS,
    LABELS,
    PROVENANCE,
    ProvenanceError,
    naming_row,
    provenance_features,
)
from hf_pgg.data.video import SampledClip, sample_clip, sample_shape

# ---------------------------------------------------------------------------------------------- boxes


def mask_to_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the box (x, y, width, height) in pixels around a bool mask (H, W) that is not empty.

    Example:
        >>> mask_to_box(np.array([[0, 0, 0, 0], [0, 1, 1, 0]], bool))
        (1, 1, 2, 1)
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def boxes_to_mask(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Fills boxes (N, 4) `[x, y, width, height]` in a bool mask (H, W): the pixels whose centre lies in a box.

    Example:
        >>> boxes_to_mask(np.array([[1, 0, 2, 1]]), (2, 4)).astype(int)
        array([[0, 1, 1, 0],
               [0, 0, 0, 0]])
    """
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    mask = np.zeros(shape, bool)
    for x, y, width, height in boxes:
        mask |= np.outer((rows >= y) & (rows <= y + height), (columns >= x) & (columns <= x + width))
    return mask


def corners(boxes: ArrayLike) -> np.ndarray:
    """Turns boxes (N, 4) `[x, y, width, height]` into `[x1, y1, x2, y2]` whose last pixels belong to the box.

    Example:
        >>> corners([[2, 3, 4, 1]])
        array([[2., 3., 5., 3.]])
    """
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[:, :2], np.maximum(boxes[:, :2] + boxes[:, 2:] - 1, boxes[:, :2])], axis=1)


def indices_with_boxes(dataset: Dataset, box_column: str) -> list[int]:
    """Returns the indices of the rows whose boxes are neither None nor an empty list.

    Example:
        >>> indices_with_boxes(Dataset.from_dict({"bbox": [[0, 0, 9, 9], None, []]}), "bbox")
        [0]
    """
    return [i for i, box in enumerate(dataset[box_column]) if box is not None and np.size(box)]


def read_clip_boxes(value: Sequence[Sequence[float] | None] | None, length: int) -> np.ndarray:
    """Reads the boxes of a clip, `[x, y, width, height]` in pixels on every frame, as (T, 4) float64.

    Raises:
        ValueError: If there is not one box for each of the `length` frames, or one is empty; the message names it.

    Example:
        >>> read_clip_boxes([[0, 0, 4, 4], None], length=2)
        Traceback (most recent call last):
        ValueError: frame 1 has no box of four numbers
    """
    if value is None:
        raise ValueError("there are no boxes")
    missing = [t for t, box in enumerate(value) if box is None or len(box) != 4]
    if missing:
        raise ValueError(f"frame {missing[0]} has no box of four numbers")
    if len(value) != length:
        raise ValueError(f"{len(value)} boxes for {length} frames")
    boxes = np.asarray(value, np.float64)
    bad = np.flatnonzero(~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)))
    if bad.size:
        found = ", ".join(f"{number:g}" for number in boxes[bad[0]])
        raise ValueError(f"frame {bad[0]} has the box [{found}], which is empty or inverted")
    return boxes


# ---------------------------------------------------------------------------------------------- masks


def read_annotation(value: Any, original_size: tuple[int, int], grey: bool = False) -> np.ndarray:
    """Reads a mask or label map (H, W) with the values that are stored; of a coloured one, its brightness.

    Args:
        original_size (`tuple[int, int]`): Width and height of the image that it belongs to, in pixels.
        grey (`bool`): Whether brightness is read from a palette, too, in place of the numbers of its colours.

    Raises:
        ValueError: If it is of another size.

    Example:
        >>> np.unique(read_annotation(rows[0]["mask"], (16, 16)))
        array([  0, 255], dtype=uint8)
    """
    mask = open_image(value)
    if mask.size != original_size:
        found, wanted = (f"{size[0]}x{size[1]}" for size in (mask.size, original_size))
        raise ValueError(f"a mask of {found} for an image of {wanted}")
    return np.array(mask.convert("L") if grey or mask.mode in ("RGB", "RGBA", "LA") else mask)


def object_mask(values: np.ndarray, target_value: int | None = None) -> np.ndarray:
    """Finds the object in an annotation (H, W): `target_value` of a label map, or the upper half of a mask's values.

    Example:
        >>> object_mask(np.array([0, 100, 200])), object_mask(np.array([1, 2, 3]), target_value=2)
        (array([False, False,  True]), array([False,  True, False]))
    """
    return values == target_value if target_value is not None else values > values.max() / 2


def read_clip_masks(value: Any, clip: SampledClip) -> np.ndarray:
    """Reads a clip's masks at its sampled frames as (T, H, W) float32 in [0, 1], brought to the size of these frames.

    Args:
        value: A list of masks, one a frame, or one image in which they are stacked from top to bottom; zero is
            background, the highest value the object.

    Raises:
        ValueError: If the masks are not as many and as large as the clip's stored frames, or cannot be decoded.

    Example:
        >>> clip = SampledClip(np.zeros((2, 16, 16, 3), np.uint8), np.array([0, 7]), 8, (16, 16))
        >>> [mask_to_box(mask > 0) for mask in read_clip_masks(clips[0]["masks"], clip)]
        [(0, 6, 4, 4), (7, 6, 4, 4)]
    """
    if not isinstance(value, (list, tuple)):
        masks = decode_mask(value, clip.length)[clip.indices]
    elif len(value) == clip.length:
        masks = np.stack([decode_mask(value[index]) for index in clip.indices.tolist()])
    else:
        raise ValueError(f"{len(value)} masks for a clip of {clip.length} frames")
    if masks.shape[1:] != clip.stored_size:
        found, wanted = (f"{width}x{height}" for height, width in (masks.shape[1:], clip.stored_size))
        raise ValueError(f"{clip.length} masks of {found} for frames of {wanted}")
    return resize_frames(_share_of_highest(masks).astype(np.float32), clip.size)


def sampled_clips(
    dataset: Dataset, sampler: FrameSampler, side: int, *, mask_column: str, video_column: str = "video"
) -> Dataset:
    """Returns clips of the sampled frames and their masks, squashed to `side` pixels: decoded once, not every epoch.

    Raises:
        ProvenanceError: If a clip or its masks cannot be read; it names the row.

    Example:
        >>> small = sampled_clips(clips, FrameSampler(4), 8, mask_column="masks")
        >>> len(small[0]["video"]), small[0]["masks"].size
        (4, (8, 32))
    """

    def sample(row: Mapping[str, Any], index: int) -> dict[str, Any]:
        try:
            found = sample_clip(row[video_column], sampler, np.random.default_rng(0), (side, side))
            masks = read_clip_masks(row[mask_column], found)
        except (ValueError, OSError) as error:
            columns, remedy = f"{video_column} or {mask_column}", "Mend or drop the row."
            raise ProvenanceError(index, columns, str(error), remedy) from error
        return {video_column: [encode_png(frame) for frame in found.frames], mask_column: encode_mask(masks)}

    features = Features({**dataset.features, video_column: List(Image()), mask_column: Image()})
    rows = dataset.map(sample, with_indices=True, features=features)
    return rows.cast_column(video_column, List(Image(decode=False)))


def _share_of_highest(values: np.ndarray) -> np.ndarray:
    return values / max(int(values.max()), 1)


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
        dataset (`Dataset`): Rows with an image and a single label.
        mask_column (`str`, *optional*): Column of mask images: zero is background, the highest value the target; or
            of label maps, with `target_value`. The masks of a clip are stacked from top to bottom in one image.
        box_column (`str`, *optional*): Column of boxes `[x, y, width, height]` in pixels, one or a list for an image;
            for a clip, a list with one entry a frame.
        video_column (`str`, *optional*): Column of the clips, where the samples are clips.
        target_value (`int`, *optional*): The value of the target in a label map (1 in the Oxford pets trimaps).
        map_kwargs: Passed on to `Dataset.map` (`num_proc`, ...).

    Raises:
        ValueError: If not exactly one of `mask_column` and `box_column` is given, or a column is missing.
        ProvenanceError: If a mask or the boxes do not fit their sample; the message names the row.

    Example:
        >>> boxed = rows.add_column("bbox", [[4, 4, 8, 8], None, [0, 0, 16, 4], [0, 0, 1, 1]])
        >>> provenance = add_provenance(boxed, box_column="bbox")["provenance"]
        >>> [masks and mask_to_box(np.asarray(masks[0]) > 0) for masks in provenance]
        [(4, 4, 8, 8), None, (0, 0, 16, 4), (0, 0, 1, 1)]
    """
    if (mask_column is None) == (box_column is None):
        raise ValueError("give either `mask_column` or `box_column`")
    column = mask_column or box_column
    for needed in (video_column or image_column, label_column, column):
        if needed not in dataset.column_names:
            raise ValueError(f"column '{needed}' is not in the dataset; its columns are {dataset.column_names}")
    contract = provenance_features(class_label(dataset.features, label_column))
    # the sample is kept where it stands: a row function that returned it would encode every image anew
    features = {**dataset.features, **{name: contract[name] for name in (LABELS, LABEL_WEIGHTS, PROVENANCE)}}
    return undecoded(dataset).map(
        _row_to_provenance,
        with_indices=True,
        fn_kwargs={
            "column": column,
            "is_box": box_column is not None,
            "columns": (image_column, video_column, label_column),
            "target_value": target_value,
        },
        features=Features(features),
        **map_kwargs,
    )


def _row_to_provenance(
    row: Mapping[str, Any],
    index: int,
    *,
    column: str,
    is_box: bool,
    columns: tuple[str, str | None, str],
    target_value: int | None,
) -> dict[str, Any]:
    image_column, video_column, label_column = columns
    known = row[column]
    out: dict[str, Any] = {LABELS: [row[label_column]], LABEL_WEIGHTS: [1.0], PROVENANCE: None}
    if known is None:
        return out
    with naming_row(index, video_column or image_column):
        num_frames, height, width = sample_shape(row, image_column, video_column)
    if is_box:
        boxes = [known] if video_column is None else known
        if len(boxes) != num_frames:
            problem = f"{len(boxes)} boxes for a clip of {num_frames} frames"
            raise ProvenanceError(index, column, problem, "Give every frame its box, or its list of boxes.")
        of_frames = [np.asarray(frame, dtype=np.float64).reshape(-1, 4) for frame in boxes]
        mask = np.concatenate([boxes_to_mask(of_frame, (height, width)) for of_frame in of_frames])
    else:
        try:
            values = read_annotation(known, (width, num_frames * height), grey=target_value is None)
        except ValueError as error:
            raise ProvenanceError(index, column, str(error), "Resize the mask with its image.") from error
        mask = _share_of_highest(values) if target_value is None else values == target_value
    out[PROVENANCE] = [encode_mask(mask)]
    return out
