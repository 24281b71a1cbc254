"""Masks of objects as a user has them, and how a column of masks or boxes becomes provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, List

from hf_pgg.data.boxes import boxes_to_mask, check_box_column, read_boxes
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import decode_mask, encode_mask, encode_png, open_image, resize_frames, undecoded
from hf_pgg.data.labels import class_label, own_label_column
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
        >>> from hf_pgg.data.boxes import mask_to_box
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
    box_format: str | None = None,
    image_column: str = IMAGE,
    video_column: str | None = None,
    label_column: str = "label",
    target_value: int | None = None,
    **map_kwargs: Any,
) -> Dataset:
    """Turns a user's own mask or box column into provenance.

    Rows whose mask or box is None, or whose list of boxes is empty, get `provenance = None`, hence no guidance.

    Args:
        dataset (`Dataset`): Rows with an image and a single label.
        mask_column (`str`, *optional*): Column of mask images: zero is background, the highest value the target; or
            of label maps, with `target_value`. The masks of a clip are stacked from top to bottom in one image.
        box_column (`str`, *optional*): Column of boxes, one or a list for an image; for a clip, a list with one entry a
            frame. None and [] say that nothing is known.
        box_format (`str`, *optional*): What the numbers of a box are, see [`~hf_pgg.data.boxes.read_boxes`]; by default
            `[x, y, width, height]` in pixels, where the boxes cannot all be corners.
        video_column (`str`, *optional*): Column of the clips, where the samples are clips.
        target_value (`int`, *optional*): The value of the target in a label map (1 in the Oxford pets trimaps).

    Raises:
        ValueError: If the columns are not given or not there, or the format of the boxes cannot be told.
        ProvenanceError: If a mask or the boxes do not fit their sample; the message names the row.

    Example:
        >>> boxed = rows.add_column("bbox", [[4, 4, 8, 8], None, [9, 0, 4, 16], []])
        >>> provenance = add_provenance(boxed, box_column="bbox")["provenance"]
        >>> from hf_pgg.data.boxes import mask_to_box
        >>> [masks and mask_to_box(np.asarray(masks[0]) > 0) for masks in provenance]
        [(4, 4, 8, 8), None, (9, 0, 4, 16), None]
    """
    if (mask_column is None) == (box_column is None):
        raise ValueError("give either `mask_column` or `box_column`")
    column = mask_column or box_column
    if label_column not in dataset.features:
        label_column = own_label_column(dataset.features, label_column)
    for needed in (video_column or image_column, label_column, column):
        if needed not in dataset.column_names:
            raise ValueError(f"column '{needed}' is not in the dataset; its columns are {dataset.column_names}")
    if box_column is not None:
        check_box_column(dataset, box_column, box_format, None if video_column else image_column)
    contract = provenance_features(class_label(dataset.features, label_column))
    # the sample is kept where it stands: a row function that returned it would encode every image anew
    features = {**dataset.features, **{name: contract[name] for name in (LABELS, LABEL_WEIGHTS, PROVENANCE)}}
    columns = (image_column, video_column, label_column)
    options = {"column": column, "is_box": box_column is not None, "box_format": box_format, "columns": columns}
    map_kwargs |= {"features": Features(features), "fn_kwargs": {**options, "target_value": target_value}}
    return undecoded(dataset).map(_row_to_provenance, with_indices=True, **map_kwargs)


def _row_to_provenance(
    row: Mapping[str, Any],
    index: int,
    *,
    column: str,
    is_box: bool,
    box_format: str | None,
    columns: tuple[str, str | None, str],
    target_value: int | None,
) -> dict[str, Any]:
    image_column, video_column, label_column = columns
    known = row[column]
    out: dict[str, Any] = {LABELS: [row[label_column]], LABEL_WEIGHTS: [1.0], PROVENANCE: None}
    if known is None or (is_box and (len(known) == 0 or (video_column is None and np.size(known) == 0))):
        return out
    with naming_row(index, video_column or image_column):
        num_frames, height, width = sample_shape(row, image_column, video_column)
    if is_box:
        boxes = [known] if video_column is None else known
        if len(boxes) != num_frames:
            problem = f"{len(boxes)} boxes for a clip of {num_frames} frames"
            raise ProvenanceError(index, column, problem, "Give every frame its box, or its list of boxes.")
        mask = np.concatenate(
            [_frame_mask(value, (height, width), box_format, index, column, t) for t, value in enumerate(boxes)]
        )
    else:
        try:
            values = read_annotation(known, (width, num_frames * height), grey=target_value is None)
        except ValueError as error:
            raise ProvenanceError(index, column, str(error), "Resize the mask with its image.") from error
        mask = _share_of_highest(values) if target_value is None else values == target_value
    out[PROVENANCE] = [encode_mask(mask)]
    return out


def _frame_mask(
    value: Any, shape: tuple[int, int], box_format: str | None, index: int, column: str, frame: int
) -> np.ndarray:
    """The mask of an image's boxes, or of one frame's."""
    remedy = "Give every box in pixels of the image as it is shown, and its format in `box_format`."
    try:
        boxes = read_boxes(value, shape[::-1], box_format)
    except ValueError as error:
        raise ProvenanceError(index, column, f"frame {frame}: {error}" if frame else str(error), remedy) from error
    if boxes is None:
        remedy = "Give every frame its box, or None for the whole clip, which is then not guided."
        raise ProvenanceError(index, column, f"frame {frame} has no box", remedy)
    return boxes_to_mask(boxes, shape)
