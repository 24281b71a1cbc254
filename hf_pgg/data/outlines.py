"""Outlines of objects as COCO stores them, polygons and run lengths, as masks.

Polygons are filled by pycocotools, the reference of COCO, which is small and has wheels; supervision draws them
otherwise and brings OpenCV. Run lengths are read here: where they end early, pycocotools leaves pixels to chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def polygons_to_mask(polygons: Sequence[Sequence[float]], size: Sequence[int]) -> np.ndarray:
    """Fills polygons `[x1, y1, x2, y2, ...]` in pixels in a bool mask (height, width) of an image of (width, height).

    Raises:
        ValueError: If a polygon has fewer than three points, leaves the image by a pixel or holds no numbers.
        ImportError: If pycocotools is not installed; the message names the extra.

    Example:
        >>> polygons_to_mask([[1, 0, 3, 0, 3, 2, 1, 2]], (4, 2)).astype(int)
        array([[0, 1, 1, 0],
               [0, 1, 1, 0]])
    """
    width, height = size
    given = [np.asarray(polygon) for polygon in polygons]
    if not given or any(one.ndim != 1 or one.dtype.kind not in "iuf" for one in given):
        raise ValueError(f"{polygons!r:.80} are no polygons: give lists of numbers [x1, y1, x2, y2, ...]")
    if any(len(one) < 6 or len(one) % 2 for one in given):
        raise ValueError("a polygon has fewer than three points or half a point")
    points = np.concatenate(given).reshape(-1, 2)
    if not (np.isfinite(points).all() and (points > -1).all() and (points < np.add(size, 1)).all()):
        raise ValueError(f"a polygon leaves the image of {width}x{height}")
    try:
        from pycocotools import mask as coco  # the optional extra
    except ImportError as error:
        raise ImportError("polygons are filled by pycocotools: `pip install 'hf-pgg[annotations]'`") from error
    shapes = [one.astype(float).tolist() for one in given]
    return coco.decode(coco.merge(coco.frPyObjects(shapes, height, width))).astype(bool)


def run_lengths_to_mask(runs: Any, size: Sequence[int]) -> np.ndarray:
    """Reads COCO's run lengths, as a list of numbers or compressed, as a bool mask of an image of (width, height).

    Args:
        runs: `{"size": [height, width], "counts": ...}`: lengths of outside and object in turn, down the columns.

    Raises:
        ValueError: If they are for another size, or are no run lengths of all its pixels.

    Example:
        >>> run_lengths_to_mask({"size": [2, 4], "counts": [2, 4, 2]}, (4, 2)).astype(int)
        array([[0, 1, 1, 0],
               [0, 1, 1, 0]])
        >>> run_lengths_to_mask({"size": [2, 4], "counts": "242"}, (4, 2)).astype(int).sum()
        np.int64(4)
    """
    width, height = size
    if not isinstance(runs, dict) or not {"size", "counts"} <= set(runs):
        raise ValueError(f"{runs!r:.80} are neither polygons nor run lengths with `size` and `counts`")
    if list(runs["size"]) != [height, width]:
        raise ValueError(f"a mask of size {runs['size']} for an image of [{height}, {width}]")
    counts = runs["counts"]
    lengths = np.asarray(_decompressed(counts) if isinstance(counts, str | bytes) else counts)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any() or lengths.sum() != width * height:
        problem = f"run lengths of {lengths.sum()} pixels" if lengths.dtype.kind in "iu" else f"{counts!r:.60}"
        raise ValueError(f"{problem} in place of those of {width * height} pixels")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T


def _decompressed(text: str | bytes) -> list[int]:
    """The run lengths in COCO's string, five bits a character; from the third, less the last but one."""
    lengths: list[int] = []
    number = shift = 0
    for code in text.encode() if isinstance(text, str) else text:
        bits = code - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{text!r:.60} are no compressed run lengths")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        number -= (bits >> 4 & 1) << shift
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number = shift = 0
    return lengths
