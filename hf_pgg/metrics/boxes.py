"""From a score map to boxes, as the evaluator of weakly supervised object localization does it, and the IoU of boxes.

J. Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020 (clovaai/wsolevaluation).
The reference calls OpenCV (`resize` with INTER_CUBIC, `findContours` with RETR_TREE, `contourArea`); here NumPy and
SciPy give the same numbers. Contours are found on runs, the horizontal stretches of foreground, for all thresholds:

- an outer contour encloses an 8-connected set of runs; its box is that of the set;
- a hole contour encloses a 4-connected set of gaps between runs that does not reach the outside; it lies on the
  foreground around the hole, so its box is one pixel wider on each side;
- the area of an outer contour is that of the polygon through its pixels' centres: per 2x2 block of the set with its
  holes filled, 1 for four pixels and 1/2 for three. A hole's contour is never larger than the outer one around it.

Boxes are integer corners `[x0, y0, x1, y1]` in pixels of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

PixelConvention = Literal["inclusive", "exclusive"]

SIZE = 224  # side of the square map on which the reference evaluates
_LEVELS_AT_ONCE = 64  # bounds the memory: a map of noise has 10,000 runs a level


def normalize_map(score_map: ArrayLike, size: int = SIZE) -> np.ndarray:
    """Resizes a score map (H, W) to (size, size) and scales its own minimum to 0 and maximum to 1, in float64.

    The resize is bicubic with a = -0.75 and without antialiasing. A map that is constant or holds NaN gives zeros, as
    in the reference.

    Raises:
        ValueError: If the map is not (H, W), has no pixels, or holds infinity.

    Example:
        >>> normalize_map([[-3.0, 5.0], [1.0, 1.0]], size=2)
        array([[0. , 1. ],
               [0.5, 0.5]])
    """
    score_map = np.asarray(score_map, np.float64)
    if score_map.ndim != 2 or 0 in score_map.shape:
        raise ValueError(f"score_map has the shape {score_map.shape}: pass one map (H, W) of one class, with pixels")
    if np.isinf(score_map).any():
        raise ValueError("score_map holds infinity: clip it first")
    flat = score_map.min() == score_map.max()  # the kernel's weights sum to 1 only nearly: it stays unresized
    resized = np.zeros((size, size)) if flat else _resize_cubic(score_map, size)
    resized -= resized.min()
    peak = resized.max()
    return resized / peak if peak > 0 else np.zeros((size, size))  # zeros too where the peak is NaN


def _resize_cubic(score_map: np.ndarray, size: int) -> np.ndarray:
    """(H, W) float64 to a new array (size, size), along the rows and then along the columns."""
    if score_map.shape == (size, size):
        return score_map.copy()
    columns, weights = _cubic_taps(score_map.shape[1], size)
    wide = sum(score_map[:, index] * weight for index, weight in zip(columns, weights, strict=True))
    rows, weights = _cubic_taps(score_map.shape[0], size)
    return np.asarray(sum(wide[index] * weight[:, None] for index, weight in zip(rows, weights, strict=True)))


def _cubic_taps(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(4, size) indices and weights that resize an axis. Single precision, as in OpenCV: one ulp can move a level."""
    a = np.float32(-0.75)
    position = ((np.arange(size) + 0.5) * (1 / (size / length)) - 0.5).astype(np.float32)
    first = np.floor(position)
    t = position - first

    def near(x: np.ndarray) -> np.ndarray:  # the kernel of R. Keys (1981) at distances up to 1, and far from 1 to 2
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: np.ndarray) -> np.ndarray:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    weights = [far(t + 1), near(t), near(1 - t)]
    weights.append(1 - weights[0] - weights[1] - weights[2])
    return np.clip(first.astype(int) + np.arange(-1, 3)[:, None], 0, length - 1), np.stack(weights).astype(np.float64)


class MapBoxes(NamedTuple):
    """The boxes of one map at T thresholds, which fall on L <= T distinct grey levels.

    Attributes:
        boxes, level: The box of each contour, (N, 4), and its level; [0, 0, 0, 0] where a level has none.
        largest: The box of the contour of largest area at each level, (L, 4).
        level_at: The level of each threshold, (T,).

    Example:
        >>> found = boxes_at_thresholds([[0.0, 0.2, 0.0], [0.0, 0.2, 1.0]], [0.1, 0.15, 0.5])
        >>> found.largest.tolist(), found.level_at.tolist()
        ([[1, 0, 2, 1], [1, 0, 2, 1], [2, 1, 2, 1]], [0, 1, 2])
    """

    boxes: np.ndarray
    level: np.ndarray
    largest: np.ndarray
    level_at: np.ndarray


def boxes_at_thresholds(normalized_map: ArrayLike, thresholds: ArrayLike) -> MapBoxes:
    """Finds the boxes of all contours of a map (H, W) in [0, 1], at each of (T,) thresholds in [0, 1].

    The map becomes grey levels `s = uint8(255 * map)`, and foreground is `s > int(threshold * max(s))`. The box of a
    contour is (x, y, x + width, y + height), clamped to the last column and row: it reaches one pixel beyond the
    contour to the right and below, except at the border.

    Raises:
        ValueError: If the map is not (H, W), or the map or a threshold leaves [0, 1]; see [`normalize_map`].

    Example:
        >>> score_map = np.zeros((8, 8))
        >>> score_map[2:5, 1:3] = 1
        >>> boxes_at_thresholds(score_map, [0.5]).boxes
        array([[1, 2, 3, 5]])
    """
    normalized_map, thresholds = np.asarray(normalized_map), np.asarray(thresholds, np.float64)
    if normalized_map.ndim != 2 or 0 in normalized_map.shape:
        raise ValueError(f"normalized_map has the shape {normalized_map.shape}: pass one map (H, W) with pixels")
    if not (normalized_map.min() >= 0 and normalized_map.max() <= 1):
        raise ValueError("normalized_map holds NaN or values outside [0, 1]: pass it through `normalize_map`")
    _check_thresholds(thresholds)
    grey = (normalized_map * 255).astype(np.uint8)
    levels, level_at = np.unique((thresholds * grey.max()).astype(int), return_inverse=True)
    parts = []
    for start in range(0, len(levels), _LEVELS_AT_ONCE):
        boxes, level, largest = _find_contours(grey > levels[start : start + _LEVELS_AT_ONCE, None, None])
        parts.append((boxes, level + start, largest))
    boxes, level, largest = (np.concatenate(part) for part in zip(*parts, strict=True))
    corner = np.array([normalized_map.shape[1] - 1, normalized_map.shape[0] - 1])
    for found in (boxes, largest):
        found[:, 2:] = np.minimum(found[:, 2:] + 1, corner)
    empty = np.setdiff1d(np.arange(len(levels)), level)
    largest[empty] = 0
    boxes = np.concatenate([boxes, np.zeros((len(empty), 4), int)])
    return MapBoxes(boxes, np.concatenate([level, empty]), largest, level_at)


def _check_thresholds(thresholds: np.ndarray) -> None:
    """Raises a `ValueError` unless these are numbers in [0, 1], at least one."""
    if thresholds.ndim != 1 or not len(thresholds) or not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise ValueError(f"thresholds are {thresholds.tolist()}: give one or more numbers in [0, 1]")


def _find_contours(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The contours of each mask of a bool stack (T, H, W), outer ones and holes.

    Gives boxes (N, 4) with inclusive corners, the mask (N,) that each belongs to, and of each mask the box (T, 4) of
    the contour of largest area (where equal, of the one that starts last in reading order; -1 where there is none).
    """
    total, height, width = masks.shape[0], masks.shape[1] + 2, masks.shape[2] + 2
    padded = np.zeros((total, height, width), bool)  # the rim keeps rows and masks apart
    padded[:, 1:-1, 1:-1] = masks
    flat = padded.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts, ends = changes[::2], changes[1::2]
    largest = np.full((total, 4), -1)
    if not len(starts):
        return np.zeros((0, 4), int), np.zeros(0, int), largest
    upper, lower = _touching(starts, ends, width, diagonal=True)
    count, labels = _components(len(starts), upper, lower)
    outer = boxes = _bounding_boxes(starts, ends, width, labels, count)

    gap_starts, gap_ends = np.append(0, ends), np.append(starts, flat.size)
    node = np.arange(len(gap_starts))
    node[gap_starts // width != gap_ends // width] = 0  # a gap over a row's end holds the rim: it is the outside
    above, below = _touching(gap_starts, gap_ends, width, diagonal=False)
    _, gap_labels = _components(len(node), node[above], node[below])
    hole = gap_labels[node] != gap_labels[0]
    if hole.any():
        names, hole_labels = np.unique(gap_labels[hole], return_inverse=True)
        holes = _bounding_boxes(gap_starts[hole], gap_ends[hole], width, hole_labels, len(names))
        boxes = np.concatenate([outer, holes + np.array([-1, -1, 1, 1])])
        starts, ends = starts[~hole[:-1]], ends[~hole[1:]]  # filled: what is left of the runs does not face a hole
        upper, lower = _touching(starts, ends, width, diagonal=True)
        count, labels = _components(len(starts), upper, lower)
        outer = _bounding_boxes(starts, ends, width, labels, count)
    areas = np.bincount(labels[upper], _area_between(starts, ends, width, upper, lower), minlength=count)
    order = np.argsort(areas, kind="stable")  # the last written wins
    largest[outer[order, 1] // height] = outer[order]
    mask = boxes[:, 1] // height
    boxes[:, 1::2] -= height * mask[:, None]
    largest[:, 1::2] -= height * np.arange(total)[:, None] * (largest[:, 1::2] >= 0)
    return boxes - 1, mask, np.where(largest >= 0, largest - 1, -1)


def _touching(starts: np.ndarray, ends: np.ndarray, width: int, diagonal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (upper, lower) of intervals that touch across two rows, at a side or also at a corner.

    The intervals [start, end) are sorted positions in a flattened image of `width` columns.
    """
    first = np.searchsorted(ends, starts + (width - diagonal), side="right")
    count = np.searchsorted(starts, ends + (width + diagonal), side="left") - first
    upper = np.repeat(np.arange(len(starts)), count)
    lower = np.arange(len(upper)) + np.repeat(first - np.cumsum(count) + count, count)
    return upper, lower


def _components(size: int, upper: np.ndarray, lower: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of connected sets of nodes, and the set of each node; sets are numbered by their first node."""
    graph = coo_array((np.ones(len(upper), np.int8), (upper, lower)), shape=(size, size))
    return connected_components(graph, directed=False)


def _bounding_boxes(starts: np.ndarray, ends: np.ndarray, width: int, labels: np.ndarray, count: int) -> np.ndarray:
    """(count, 4) inclusive corners of sets of intervals, each within its row."""
    boxes = np.empty((count, 4), int)
    boxes[:, :2], boxes[:, 2:] = np.iinfo(int).max, -1
    rows = starts // width
    np.minimum.at(boxes[:, 0], labels, starts - rows * width)
    np.minimum.at(boxes[:, 1], labels, rows)
    np.maximum.at(boxes[:, 2], labels, ends - 1 - rows * width)
    np.maximum.at(boxes[:, 3], labels, rows)
    return boxes


def _area_between(starts: np.ndarray, ends: np.ndarray, width: int, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """(pairs,) area between two touching runs: 1 for each 2x2 block of four pixels, 1/2 for each of three."""
    a0, a1, b0, b1 = starts[upper] + width, ends[upper] + width, starts[lower], ends[lower]
    full = np.maximum(np.minimum(a1, b1) - np.maximum(a0, b0) - 1, 0)
    ends_inside = [(a0 < end) & (end < a1) for end in (b0, b1)] + [(b0 < end) & (end < b1) for end in (a0, a1)]
    return full + 0.5 * np.sum(ends_inside, axis=0)


def box_iou(a: np.ndarray, b: np.ndarray, pixel_convention: PixelConvention = "inclusive") -> np.ndarray:
    """Returns the IoU of boxes `[x0, y0, x1, y1]` (..., 4) that broadcast against each other; of two empty boxes 0.

    Args:
        pixel_convention (`str`): `"inclusive"`: x1 and y1 are the last pixels of the box, whose width is x1 - x0 + 1.
            `"exclusive"`: the width is x1 - x0.

    Example:
        >>> a, b = np.array([0, 0, 9, 9]), np.array([5, 0, 14, 9])
        >>> float(box_iou(a, b)), float(box_iou(a, b, "exclusive"))
        (0.3333333333333333, 0.2857142857142857)
    """
    if pixel_convention not in get_args(PixelConvention):
        raise ValueError(f"`pixel_convention` is {pixel_convention!r}: choose one of {get_args(PixelConvention)}")
    extra = 1.0 if pixel_convention == "inclusive" else 0.0
    shared = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + extra).clip(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2] + extra).prod(-1) + (b[..., 2:] - b[..., :2] + extra).prod(-1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def pairwise_iou(boxes: ArrayLike, others: ArrayLike) -> np.ndarray:
    """Returns the (N, M) IoU of boxes (N, 4) and (M, 4), last pixels included; inverted or negative ones are refused.

    Example:
        >>> pairwise_iou([[0, 0, 9, 9]], [[0, 0, 9, 4], [20, 20, 29, 29]])
        array([[0.5, 0. ]])
    """
    return box_iou(_checked_corners(boxes)[:, None], _checked_corners(others)[None])


def image_boxes(boxes: ArrayLike, original_size: Sequence[float], box_format: str = "xywh") -> np.ndarray:
    """Turns the boxes of an image into the (N, 4) corners `[x0, y0, x1, y1]` that the evaluator takes.

    Boxes `[x, y, width, height]` give (x, y, x + width, y + height), moved to the last pixel at the image's very edge.

    Args:
        boxes (`ArrayLike`): Boxes (N, 4), or one box (4,), in pixels of the image, whose (width, height) is
            `original_size`; `"xywh"` or `"xyxy"`.

    Raises:
        ValueError: If there is no box, or one is inverted, empty, in shares of the image, holds NaN or leaves it.

    Example:
        >>> image_boxes([60, 27, 40, 73], (100, 100))
        array([[60., 27., 99., 99.]])
    """
    if box_format not in ("xywh", "xyxy"):
        raise ValueError(f"box_format is {box_format!r}: choose 'xywh' or 'xyxy'")
    size = np.asarray(original_size, np.float64)
    if size.shape != (2,) or not (size >= 1).all():
        raise ValueError(f"original_size is {original_size!r}: give (width, height) in pixels")
    corners = np.atleast_2d(np.array(boxes, np.float64))
    if corners.size == 0:
        raise ValueError("the image has no box: localization is undefined there, leave the image out")
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError(f"boxes have the shape {corners.shape}: give (N, 4)")
    if box_format == "xywh":
        corners[:, 2:] += corners[:, :2]
    for box, given in zip(corners, np.atleast_2d(np.asarray(boxes)).tolist(), strict=True):
        if not (box[:2] <= box[2:]).all():
            raise ValueError(f"box {given} is inverted or holds NaN as '{box_format}'")
        if not ((box[:2] >= 0) & (box[:2] < size) & (box[2:] <= size)).all():
            hint = "; are these corners? Then set box_format='xyxy'" if box_format == "xywh" else ""
            problem = f"box {given} as '{box_format}' leaves the image of {size[0]:g}x{size[1]:g} (width x height)"
            raise ValueError(problem + hint)
        if max(given) <= 1 < size.min() / 2:
            raise ValueError(f"box {given} lies within one pixel: give pixels, not shares of the image")
        if box_format == "xywh" and not min(given[2:]) > 0:
            raise ValueError(f"box {given} as 'xywh' is empty: leave it out")
    return np.minimum(corners, np.tile(size - 1, 2))


def resize_boxes(corners: ArrayLike, original_size: Sequence[float], map_size: Sequence[float]) -> np.ndarray:
    """Scales corners (N, 4) from an image of (width, height) to a map of (width, height), and truncates them to int.

    Example:
        >>> resize_boxes([[1, 2, 4, 3]], (10, 20), (35, 10))
        array([[ 3,  1, 14,  1]])
    """
    corners = _checked_corners(corners).astype(np.float64)
    return (corners * np.tile(np.asarray(map_size), 2) / np.tile(np.asarray(original_size), 2)).astype(int)


def _checked_corners(boxes: ArrayLike) -> np.ndarray:
    """The boxes, once they are (N, 4) corners that are neither negative nor inverted."""
    boxes = np.asarray(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes have the shape {boxes.shape}: give (N, 4) corners")
    if not ((boxes >= 0).all() and (boxes[:, :2] <= boxes[:, 2:]).all()):
        raise ValueError("a box is inverted, holds NaN or has negative corners: give [x0, y0, x1, y1]")
    return boxes
