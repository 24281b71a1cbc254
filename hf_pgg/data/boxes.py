"""Boxes of objects as a user has them: one reader for provenance, evaluation and recipes, and boxes as masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike

from hf_pgg.data.orientation import warn_of_turned

BOX_FORMATS = ("xywh", "xyxy", "cxcywh", "xywh_normalized", "xyxy_normalized", "yolo")
_TOLERANCE = 0.5  # pixels: rounding in a file moves an edge by less, and no pixel's centre lies beyond


def read_boxes(value: Any, size: Sequence[int], box_format: str | None = None) -> np.ndarray | None:
    """Reads the boxes of one image as corners `[x1, y1, x2, y2]` (N, 4) float64, where x2 and y2 end the box.

    Args:
        value: One box of four numbers, or a list of boxes. None and an empty list give None: the object is unknown.
        size (`Sequence[int]`): Width and height of the image in pixels, as it is shown.
        box_format (`str`, *optional*): In pixels `"xywh"` (as in COCO, and the default), `"xyxy"` or `"cxcywh"`
            (centre and size); as shares of the image `"xywh_normalized"`, `"xyxy_normalized"` or `"yolo"` (centre and
            size).

    Raises:
        ValueError: If a box is not four finite numbers, is empty or inverted, leaves the image by half a pixel or more,
            or is given in shares where pixels are expected or the other way round.

    Example:
        >>> read_boxes([[4, 2, 8, 6]], (16, 16)), read_boxes([0.5, 0.5, 0.5, 1.0], (16, 16), "yolo")
        (array([[ 4.,  2., 12.,  8.]]), array([[ 4.,  0., 12., 16.]]))
    """
    box_format = box_format or "xywh"
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box_format is {box_format!r}: choose one of {', '.join(BOX_FORMATS)}")
    given = _numbers(value)
    if given is None:
        return None
    extent = np.tile(np.asarray(size, np.float64), 2)
    in_shares = box_format in ("xywh_normalized", "xyxy_normalized", "yolo")
    if not in_shares and min(size) > 2 and given.min() >= 0 and given.max() <= 1:
        raise ValueError(
            f"box {given[0].tolist()} lies within one pixel of the image of {_size(size)}: are the numbers shares of"
            " the image? Then set box_format to 'xywh_normalized', 'xyxy_normalized' or 'yolo' (centre and size)"
        )
    if in_shares and given.max() > 2:
        raise ValueError(
            f"box {given[0].tolist()} is not in shares of the image, as '{box_format}' says: are the numbers pixels?"
            " Then set box_format to 'xywh', 'xyxy' or 'cxcywh'"
        )
    boxes = _to_corners(given * extent if in_shares else given, box_format)
    for box, numbers in zip(boxes, given.tolist(), strict=True):
        if not (box[:2] < box[2:]).all() or not _fits(box, size):
            problem = f"leaves the image of {_size(size)}" if (box[:2] < box[2:]).all() else "is empty or inverted"
            hint = _hint(np.array(numbers), size, box_format, in_shares)
            raise ValueError(f"box {numbers} as '{box_format}' {problem}{hint}")
    return np.clip(boxes, 0, extent)


def _numbers(value: Any) -> np.ndarray | None:
    """Boxes (N, 4) float64 as they are given; None where there is no box."""
    if value is None:
        return None
    try:
        numbers = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"boxes {value!r:.80} are not four numbers each: give [x, y, width, height]") from error
    if numbers.size == 0:
        return None
    if numbers.dtype.kind not in "iuf" or numbers.ndim > 2 or numbers.shape[-1] != 4:
        raise ValueError(f"boxes {value!r:.80} are not four numbers each: give [x, y, width, height], or None")
    numbers = np.atleast_2d(numbers).astype(np.float64)
    if not np.isfinite(numbers).all():
        bad = numbers[~np.isfinite(numbers).all(1)][0].tolist()
        raise ValueError(f"box {bad} holds NaN or infinity: give None where there is no box")
    return numbers


def _to_corners(boxes: np.ndarray, box_format: str) -> np.ndarray:
    first, second = boxes[:, :2], boxes[:, 2:]
    if box_format.startswith("xywh"):
        second = first + second
    elif box_format in ("cxcywh", "yolo"):
        first, second = first - second / 2, first + second / 2
    return np.concatenate([first, second], axis=1)


def _fits(box: np.ndarray, size: Sequence[int]) -> bool:
    extent = np.asarray(size, np.float64)
    inside = (box[:2] > -_TOLERANCE) & (box[:2] < extent) & (box[2:] < extent + _TOLERANCE)
    return bool((inside & (box[2:] > np.maximum(box[:2], 0))).all())


def _hint(numbers: np.ndarray, size: Sequence[int], box_format: str, in_shares: bool) -> str:
    """What the box could be instead: another format that fits the image, or a box of the unturned image."""
    scaled = numbers * np.tile(size, 2) if in_shares else numbers
    others = [name for name in BOX_FORMATS if (name not in BOX_FORMATS[:3]) == in_shares and name != box_format]
    possible = [name for name in others if _fits(_to_corners(scaled[None], name)[0], size)]
    hints = [f"; are these corners? Then set box_format='{name}'" for name in possible if name.startswith("xyxy")]
    if not in_shares and _fits(_to_corners(numbers[None], box_format)[0], size[::-1]):
        hints.append(
            f"; it fits an image of {_size(size[::-1])}: if the image is turned by its EXIF tag, turn its boxes, too"
        )
    hints += [f"; if it is meant so, set box_format='{name}'" for name in possible if not name.startswith("xyxy")]
    return "".join(hints[:2])


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]} (width x height)"


def check_box_column(
    dataset: Dataset, box_column: str, box_format: str | None = None, image_column: str | None = None
) -> list[int]:
    """Checks a column of boxes as a whole, and returns the indices of the rows that have boxes: neither None nor [].

    `[x, y, width, height]`, corners and centres look alike. Where no format is stated, the boxes must prove the first:
    one that ends before it begins as corners, and one that begins outside as a centre and a size. A warning names the
    rows whose image is turned by its EXIF tag: boxes are taken in the image as it is shown.

    Args:
        image_column (`str`, *optional*): Column of the images; without it, a row holds the boxes of a clip's frames.

    Raises:
        ValueError: If boxes are not four numbers each, or their format cannot be told.

    Example:
        >>> boxed = rows.add_column("bbox", [[9, 0, 4, 9], None, [], None])
        >>> check_box_column(boxed, "bbox", image_column="image")
        [0]
    """
    known: list[int] = []
    distinct: set[tuple[float, ...]] = set()
    for i, value in enumerate(dataset.with_format(None)[box_column]):
        if value is None or value == []:
            continue
        boxes: list[list[float]] = []
        for t, entry in enumerate([value] if image_column else value):
            try:
                found = _numbers(entry)
            except ValueError as error:
                frame = "" if image_column else f"frame {t}: "
                raise ValueError(f"row {i}, column '{box_column}': {frame}{error}") from error
            boxes += [] if found is None else found.tolist()
        known += [i] if boxes else []
        distinct.update(map(tuple, boxes))
    if box_format is None and distinct:
        refuse_ambiguous(np.array(sorted(distinct)), box_column)
    if image_column:
        warn_of_turned(dataset, image_column, f"the boxes of column '{box_column}'", known)
    return known


def refuse_ambiguous(boxes: np.ndarray, box_column: str) -> None:
    """Refuses boxes (N, 4) in pixels, of which none proves that they are no corners, or no centres and sizes.

    Example:
        >>> refuse_ambiguous(np.array([[9, 0, 4, 9]]), "bbox")  # no corners, and no centre as far up
        >>> refuse_ambiguous(np.array([[4, 4, 9, 9]]), "bbox")
        Traceback (most recent call last):
        ValueError: column 'bbox': each of 1 distinct boxes could be 'xywh' or 'xyxy', such as [4, 4, 9, 9]: set ...
    """
    if boxes.max() <= 1:
        return  # shares of the image, which the reader refuses with its row
    starts = {name: _to_corners(boxes, name) for name in ("xyxy", "cxcywh")}
    possible = [
        name
        for name, found in starts.items()
        if (found[:, :2] > -_TOLERANCE).all() and (found[:, 2:] > found[:, :2]).all()
    ]
    if possible:
        raise ValueError(
            f"column '{box_column}': each of {len(boxes)} distinct boxes could be 'xywh' or"
            f" {' or '.join(map(repr, possible))}, such as {boxes[0].tolist()}: set box_format to the one that they are"
        )


def indices_with_boxes(dataset: Dataset, box_column: str) -> list[int]:
    """Returns the indices of the rows whose boxes are neither None nor an empty list.

    Example:
        >>> indices_with_boxes(Dataset.from_dict({"bbox": [[0, 0, 9, 9], None, []]}), "bbox")
        [0]
    """
    return [i for i, box in enumerate(dataset.with_format(None)[box_column]) if box is not None and np.size(box)]


def boxes_to_mask(boxes: ArrayLike, shape: tuple[int, int]) -> np.ndarray:
    """Fills boxes (N, 4) `[x1, y1, x2, y2]` in a bool mask (H, W): the pixels whose centre lies in a box.

    A box narrower than a pixel between two centres takes the pixel that its own centre lies in.

    Example:
        >>> boxes_to_mask([[1, 0, 3, 1]], (2, 4)).astype(int)
        array([[0, 1, 1, 0],
               [0, 0, 0, 0]])
    """
    mask = np.zeros(shape, bool)
    for x1, y1, x2, y2 in np.asarray(boxes, np.float64):
        mask[_span(y1, y2, shape[0]), _span(x1, x2, shape[1])] = True
    return mask


def _span(start: float, end: float, length: int) -> slice:
    first, last = int(np.ceil(start - 0.5)), int(np.floor(end - 0.5))
    if last < first:
        first = last = min(int((start + end) / 2), length - 1)
    return slice(max(first, 0), last + 1)


def mask_to_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the box (x, y, width, height) in pixels around a bool mask (H, W) that is not empty.

    Example:
        >>> mask_to_box(np.array([[0, 0, 0, 0], [0, 1, 1, 0]], bool))
        (1, 1, 2, 1)
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def corners(boxes: ArrayLike) -> np.ndarray:
    """Turns boxes (N, 4) `[x, y, width, height]` into `[x1, y1, x2, y2]` whose last pixels belong to the box.

    Example:
        >>> corners([[2, 3, 4, 1]])
        array([[2., 3., 5., 3.]])
    """
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[:, :2], np.maximum(boxes[:, :2] + boxes[:, 2:] - 1, boxes[:, :2])], axis=1)


def read_clip_boxes(
    value: Sequence[Any] | None, length: int, size: Sequence[int], box_format: str | None = None
) -> list[np.ndarray] | None:
    """Reads the boxes of a clip's frames as [`read_boxes`] does those of an image: corners (N, 4) of each frame.

    Args:
        value (`Sequence`): One box, or a list of boxes, for each of the `length` frames. None, an empty list, and
            frames that all have no box give None: the object is unknown.

    Raises:
        ValueError: If there is not one entry a frame, some frames alone have a box, or a box is none of its frame.

    Example:
        >>> read_clip_boxes([[0, 0, 4, 4], []], 2, (16, 16))
        Traceback (most recent call last):
        ValueError: frame 1 has no box, frame 0 has one: give every frame its box, or None for the whole clip
    """
    if value is None or len(value) == 0:
        return None
    if len(value) != length:
        raise ValueError(f"{len(value)} boxes for a clip of {length} frames: give every frame its box, or its list")
    found: list[np.ndarray | None] = []
    for t, entry in enumerate(value):
        try:
            found.append(read_boxes(entry, size, box_format))
        except ValueError as error:
            raise ValueError(f"frame {t}: {error}") from error
    known = [boxes for boxes in found if boxes is not None]
    if known and len(known) < length:
        without, with_box = (next(t for t, own in enumerate(found) if (own is None) == none) for none in (True, False))
        remedy = "give every frame its box, or None for the whole clip"
        raise ValueError(f"frame {without} has no box, frame {with_box} has one: {remedy}")
    return known or None
