"""How a column of masks or boxes becomes provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, List

from hf_pgg.data.boxes import boxes_to_mask, check_box_column, read_boxes, read_clip_boxes
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import encode_mask, encode_png, resize, to_rgb, undecoded
from hf_pgg.data.labels import class_label, own_label_column
from hf_pgg.data.masks import MaskSettings, read_clip_masks, read_mask, read_masks
from hf_pgg.data.orientation import warn_of_masks_turned_apart
from hf_pgg.data.provenance import (
    IMAGE,
    LABEL_WEIGHTS,
    LABELS,
    PROVENANCE,
    ProvenanceError,
    naming_row,
    provenance_features,
    sources_of,
)
from hf_pgg.data.video import sample_clip, sample_shape


def sampled_clips(
    dataset: Dataset, sampler: FrameSampler, side: int, *, mask_column: str, video_column: str = "video"
) -> Dataset:
    """Returns clips of the sampled frames and their masks, squashed to `side` pixels: decoded once, not every epoch.

    A clip or masks that cannot be read are a ProvenanceError, which names the row.

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


def squashed_rows(dataset: Dataset, size: tuple[int, int], image_column: str = IMAGE) -> Dataset:
    """Returns rows whose images, and masks where they have provenance, are squashed to `size` (height, width).

    An image or a mask that cannot be read is a ProvenanceError, which names the row.

    Example:
        >>> small = squashed_rows(rows, (8, 8))
        >>> small[0]["image"].size, small[0]["provenance"][0].size
        ((8, 8), (8, 8))
    """

    def squash(row: Mapping[str, Any], index: int) -> dict[str, Any]:
        with naming_row(index, image_column):
            image = to_rgb(row[image_column])
        out: dict[str, Any] = {image_column: encode_png(resize(image, size))}
        if row.get(PROVENANCE) is not None:
            with naming_row(index, PROVENANCE):
                masks = sources_of(row, image.shape[:2]).resized(size).masks
            out[PROVENANCE] = [None if mask is None else encode_mask(mask) for mask in masks]
        return out

    features = Features({**dataset.features, image_column: Image()})
    return undecoded(dataset).map(squash, with_indices=True, features=features)


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
    target_value: float | None = None,
    ignore_value: float | None = None,
    channel: str | None = None,
    **map_kwargs: Any,
) -> Dataset:
    """Turns a user's own mask or box column into provenance.

    Rows whose mask or box is None, or has no box in its list, get `provenance = None`, hence no guidance.

    Args:
        dataset (`Dataset`): Rows with an image and a single label.
        mask_column (`str`, *optional*): Column of masks, of any kind that [`hf_pgg.data.masks`] lists; of a clip
            stacked from top to bottom in one image, or a list with one a frame.
        box_column (`str`, *optional*): Column of boxes, one or a list for an image; of a clip a list, one a frame.
        box_format (`str`, *optional*): What the numbers of a box are, see [`~hf_pgg.data.boxes.read_boxes`]; by default
            `[x, y, width, height]` in pixels, where the boxes cannot all be corners.
        video_column (`str`, *optional*): Column of the clips, where the samples are clips.
        target_value, ignore_value, channel (*optional*): What the masks' numbers mean, where they do not say it: see
            [`~hf_pgg.data.masks.MaskSettings`].

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
    elif video_column is None:
        warn_of_masks_turned_apart(dataset, image_column, str(mask_column))
    contract = provenance_features(class_label(dataset.features, label_column))
    # the sample is kept where it stands: a row function that returned it would encode every image anew
    features = {**dataset.features, **{name: contract[name] for name in (LABELS, LABEL_WEIGHTS, PROVENANCE)}}
    columns = (image_column, video_column, label_column)
    options = {"column": column, "is_box": box_column is not None, "box_format": box_format, "columns": columns}
    settings = MaskSettings(target_value, ignore_value, channel)
    map_kwargs |= {"features": Features(features), "fn_kwargs": {**options, "settings": settings}}
    return undecoded(dataset).map(_row_to_provenance, with_indices=True, **map_kwargs)


def _row_to_provenance(
    row: Mapping[str, Any],
    index: int,
    *,
    column: str,
    is_box: bool,
    box_format: str | None,
    columns: tuple[str, str | None, str],
    settings: MaskSettings,
) -> dict[str, Any]:
    image_column, video_column, label_column = columns
    known = row[column]
    out: dict[str, Any] = {LABELS: [row[label_column]], LABEL_WEIGHTS: [1.0], PROVENANCE: None}
    if known is None:
        return out
    with naming_row(index, video_column or image_column):
        num_frames, height, width = sample_shape(row, image_column, video_column)
    if is_box:
        with naming_row(index, column, "Give every box in the image as it is shown, and its format in `box_format`."):
            if video_column is None:
                boxes = read_boxes(known, (width, height), box_format)
                frames = None if boxes is None else [boxes]
            else:
                frames = read_clip_boxes(known, num_frames, (width, height), box_format)
        if frames is None:
            return out
        mask = np.concatenate([boxes_to_mask(found, (height, width)) for found in frames])
    else:
        with naming_row(index, column, "Mend the mask, or give None."):
            if video_column is None:
                mask = read_mask(known, (width, height), settings).target
            else:
                mask = read_masks(known, (num_frames, height, width), settings)
    out[PROVENANCE] = [encode_mask(mask)]
    return out
