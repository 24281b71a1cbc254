"""Boxes in every format, the pixels that they cover, and what is no box of the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Boxes = list[list[float]]
FORMATS = ("xywh", "xyxy", "cxcywh", "xywh_normalized", "xyxy_normalized", "yolo")


def in_shares(name: str) -> bool:
    return name == "yolo" or name.endswith("_normalized")


def as_format(corners: list[float], name: str, size: tuple[int, int]) -> list[float]:
    """A box given by its corners in pixels, in another format; size is (height, width)."""
    x1, y1, x2, y2 = corners
    values = {
        "xyxy": [x1, y1, x2, y2],
        "xywh": [x1, y1, x2 - x1, y2 - y1],
        "cxcywh": [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1],
    }["cxcywh" if name == "yolo" else name.removesuffix("_normalized")]
    scale = (size[1], size[0]) * 2 if in_shares(name) else (1, 1, 1, 1)
    return [float(value / side) for value, side in zip(values, scale, strict=True)]


def draw_corners(rng: np.random.Generator, target: np.ndarray) -> list[float]:
    """The corners of the box around a target; sometimes fractions that cover the same pixels."""
    rows, columns = np.flatnonzero(target.any(1)), np.flatnonzero(target.any(0))
    corners = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
    if rng.random() < 0.3:
        low, high = rng.uniform(-0.4, 0.4, 2), rng.uniform(-0.4, 0.4, 2)
        limits = np.array([*target.shape[::-1]] * 2)
        moved = np.clip(corners + np.array([*low, *high]), 0, limits)
        corners = moved if (moved[2:] - moved[:2] >= 0.6).all() else corners
    return [float(value) for value in corners]


def covered(boxes: Boxes, size: tuple[int, int]) -> np.ndarray:
    """The pixels whose centre lies in one of the boxes (corners in pixels), as float (H, W)."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    inside = [(x1 <= x) & (x < x2) & (y1 <= y) & (y < y2) for x1, y1, x2, y2 in boxes]
    return np.any(inside, axis=0).astype(np.float32)


def _shifted(factors: tuple[float, float, float, float]) -> Callable[..., Boxes]:
    """The box moved by multiples of the image's sides."""

    def change(corners: list[float], name: str, size: tuple[int, int]) -> Boxes:
        moved = [
            value + factor * side for value, factor, side in zip(corners, factors, (size[1], size[0]) * 2, strict=True)
        ]
        return [as_format(moved, name, size)]

    return change


def _replaced(place: int, value: float) -> Callable[..., Boxes]:
    def change(corners: list[float], name: str, size: tuple[int, int]) -> Boxes:
        box = as_format(corners, name, size)
        box[place] = value
        return [box]

    return change


def _other_unit(corners: list[float], name: str, size: tuple[int, int]) -> Boxes:
    """Shares where pixels are expected, and the other way round."""
    other = {"xywh": "xywh_normalized", "xyxy": "xyxy_normalized", "cxcywh": "yolo"}
    swapped = other | {value: key for key, value in other.items()}
    return [as_format(corners, swapped[name], size)]


# `(corners in pixels, format, size) -> boxes`; each is refused, in an image of 8 pixels a side or more
NO_BOX: dict[str, Callable[..., Any]] = {
    "beyond the right": _shifted((1, 0, 1, 0)),
    "beyond the top": _shifted((0, -1, 0, -1)),
    "half outside": _shifted((0, 0, 1, 0)),
    "inverted": lambda corners, name, size: [as_format([*corners[2:], *corners[:2]], name, size)],
    "empty": lambda corners, name, size: [as_format([corners[0], corners[1], corners[0], corners[3]], name, size)],
    "NaN": _replaced(0, float("nan")),
    "infinite": _replaced(2, float("inf")),
    "of the other unit": _other_unit,
    "of three numbers": lambda corners, name, size: [as_format(corners, name, size)[:3]],
    "of five numbers": lambda corners, name, size: [[*as_format(corners, name, size), 0.9]],
    "one of two outside": lambda corners, name, size: (
        [as_format(corners, name, size), *_shifted((1, 1, 1, 1))(corners, name, size)]
    ),
}
