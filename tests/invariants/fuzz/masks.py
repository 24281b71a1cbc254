"""Masks in every convention that the guide of masks lists, and masks that say nothing or something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Image, List, Value
from PIL import Image as PILImage
from scipy.ndimage import gaussian_filter

from tests.invariants.fuzz.scenes import file_of, turned_file

Encode = Callable[[np.ndarray, np.random.Generator], tuple[Any, np.ndarray]]


@dataclass(frozen=True)
class MaskKind:
    """A convention: `encode(target, rng)` gives the stored value and the mask that it means, float (H, W)."""

    encode: Encode
    options: Mapping[str, Any] = field(default_factory=dict)
    feature: Any = field(default_factory=Image)
    tolerance: float = 1 / 255


def _numbers(dtype: Any, full: float, kind: str = "PNG") -> Encode:
    return lambda target, rng: (
        file_of(PILImage.fromarray((target * full).astype(dtype)), kind),
        target.astype(np.float32),
    )


def _listed(dtype: Any, full: float = 1) -> Encode:
    return lambda target, rng: ((target * full).astype(dtype).tolist(), target.astype(np.float32))


def softened(target: np.ndarray) -> np.ndarray:
    """A mask with soft borders, whose ends are most of it; where there is no room for them, a hard one."""
    soft = np.rint(gaussian_filter(target.astype(np.float32), 0.7) * 255) / 255
    is_soft = soft.max() > 0.99 and soft.min() == 0 and ((soft < 0.02) | (soft > 0.98)).mean() > 0.6
    return soft if is_soft and len(np.unique(soft)) > 5 else target.astype(np.float32)


def _soft(target: np.ndarray, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    soft = softened(target)
    stored = soft.astype(np.float32) if rng.random() < 0.3 else np.rint(soft * 255).astype(np.uint8)
    return file_of(PILImage.fromarray(stored), "TIFF"), soft


def _jpeg(target: np.ndarray, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    grey = PILImage.fromarray(target.astype(np.uint8) * 255)
    return file_of(grey, "JPEG", quality=int(rng.integers(90, 101))), target.astype(np.float32)


def _one_bit(target: np.ndarray, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    return file_of(PILImage.fromarray(target)), target.astype(np.float32)


def _grey_colours(target: np.ndarray, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    mode = str(rng.choice(["RGB", "RGBA", "LA", "CMYK"]))
    image = PILImage.fromarray(target.astype(np.uint8) * 255).convert("RGB" if mode == "CMYK" else mode)
    return file_of(image.convert(mode), "TIFF" if mode == "CMYK" else "PNG"), target.astype(np.float32)


def _turned(target: np.ndarray, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    return turned_file(target.astype(np.uint8) * 255, int(rng.integers(1, 9))), target.astype(np.float32)


def _alpha(target: np.ndarray, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    soft = softened(target) if rng.random() < 0.5 else target.astype(np.float32)
    colour = 255 if target.all() else rng.integers(256)  # all opaque, the colours speak
    planes = [np.full(target.shape, colour, np.uint8)] * (1 if rng.random() < 0.3 else 3)
    return file_of(PILImage.fromarray(np.dstack([*planes, np.rint(soft * 255).astype(np.uint8)]))), soft


def _cutout(target: np.ndarray, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    colours = rng.integers(0, 256, (*target.shape, 3), np.uint8)
    return file_of(PILImage.fromarray(np.dstack([colours, target.astype(np.uint8) * 255]))), target.astype(np.float32)


def _in_red(target: np.ndarray, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    planes = [target.astype(np.uint8) * 255, *rng.integers(0, 256, (2, *target.shape), np.uint8)]
    return file_of(PILImage.fromarray(np.dstack(planes))), target.astype(np.float32)


def class_ids(target: np.ndarray, rng: np.random.Generator, ids: tuple[int, ...]) -> np.ndarray:
    """A label map in which the object is `ids[0]` and the rest is shared by the other numbers."""
    values = np.full(target.shape, ids[1], np.uint8)
    edges = np.array_split(np.flatnonzero(~target), len(ids) - 1)
    for place, number in zip(edges, ids[1:], strict=True):
        values.flat[place] = number
    values[target] = ids[0]
    return values


def with_palette(values: np.ndarray, *, grey: bool = False) -> PILImage.Image:
    """A label map as Pascal VOC stores it: indices with colours, of which the first is black."""
    image = PILImage.fromarray(values).convert("P")
    ramp = np.arange(256, dtype=np.uint8)
    image.putpalette(np.dstack([ramp] * 3 if grey else [ramp * 37, ramp * 101, ramp * 11]).tobytes())
    return image


def _ids(*ids: int, palette: bool = False) -> Encode:
    def encode(target: np.ndarray, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
        values = class_ids(target, rng, ids)
        return file_of(with_palette(values) if palette else PILImage.fromarray(values)), target.astype(np.float32)

    return encode


_NESTED = List(List(Value("float32")))
MASKS = {
    "bool": MaskKind(_one_bit),
    "0 and 1": MaskKind(_numbers(np.uint8, 1)),
    "0 and 255": MaskKind(_numbers(np.uint8, 255)),
    "0 and 65535": MaskKind(_numbers(np.uint16, 65535)),
    "0 and 1 in 16 bits": MaskKind(_numbers(np.uint16, 1)),
    "0 and 1 in floats": MaskKind(_numbers(np.float32, 1, "TIFF")),
    "0 and 255 in floats": MaskKind(_numbers(np.float32, 255, "TIFF")),
    "0 and 1 in 32 bits": MaskKind(_numbers(np.int32, 1, "TIFF")),
    "soft": MaskKind(_soft, tolerance=2 / 255),
    "JPEG": MaskKind(_jpeg, tolerance=0.35),
    "grey colours": MaskKind(_grey_colours),
    "turned by its tag": MaskKind(_turned),
    "a palette of greys": MaskKind(
        lambda target, rng: (
            file_of(with_palette(target.astype(np.uint8) * 255, grey=True)),
            target.astype(np.float32),
        )
    ),
    "alpha on one colour": MaskKind(_alpha, tolerance=2 / 255),
    "a cut-out": MaskKind(_cutout, {"channel": "alpha"}),
    "a channel": MaskKind(_in_red, {"channel": "red"}),
    "class ids": MaskKind(_ids(2, 0, 1, 3), {"target_value": 2}),
    "a trimap": MaskKind(_ids(1, 2, 3), {"target_value": 1}),
    "a trimap without its border": MaskKind(_ids(1, 2, 3), {"target_value": 1, "ignore_value": 3}),
    "VOC": MaskKind(_ids(15, 0, 255, palette=True), {"target_value": 15, "ignore_value": 255}),
    "VOC without ignore": MaskKind(_ids(15, 0, 7, 255, palette=True), {"target_value": 15}),
    "0, 1 and a border": MaskKind(_ids(1, 0, 255), {"ignore_value": 255}),
    "nested lists": MaskKind(_listed(np.float32), feature=_NESTED),
    "nested lists of 0 and 255": MaskKind(_listed(np.float32, 255), feature=_NESTED),
    "nested lists of bool": MaskKind(_listed(bool), feature=List(List(Value("bool")))),
}


def _png(values: np.ndarray) -> dict[str, Any]:
    return file_of(PILImage.fromarray(values))


def _float_file(values: np.ndarray) -> dict[str, Any]:
    return file_of(PILImage.fromarray(values.astype(np.float32)), "TIFF")


def _soft_trap(target: np.ndarray) -> np.ndarray:
    """Three areas, of which nobody says what the middle one is."""
    values = class_ids(target, np.random.default_rng(0), (255, 0, 128))
    return values


# masks that no argument was given for: `target -> stored value`; each is refused
NO_MEANING: dict[str, Callable[[np.ndarray], Any]] = {
    "class ids": lambda target: _png(class_ids(target, np.random.default_rng(0), (2, 0, 1))),
    "ids of 0 and 2": lambda target: _png(target.astype(np.uint8) * 2),
    "a trimap": lambda target: _png(class_ids(target, np.random.default_rng(0), (1, 2, 3))),
    "1 and 2": lambda target: _png(target.astype(np.uint8) + 1),
    "VOC": lambda target: file_of(with_palette(class_ids(target, np.random.default_rng(0), (15, 0, 255)))),
    "0, 1 and a border": lambda target: _png(class_ids(target, np.random.default_rng(0), (1, 0, 255))),
    "three areas": lambda target: _png(_soft_trap(target)),
    "ids as floats in [0, 1]": lambda target: _float_file(
        class_ids(target, np.random.default_rng(0), (2, 0, 1)) / np.float32(255)
    ),
    "12 bits in 16": lambda target: _png(target.astype(np.uint16) * 4095),
    "colours": lambda target: _png(np.where(target[..., None], [200, 30, 30], [0, 0, 120]).astype(np.uint8)),
    "a cut-out": lambda target: _cutout(target, np.random.default_rng(0))[0],
    "negative": lambda target: _float_file(np.where(target, 1.0, -1.0)),
    "NaN": lambda target: _float_file(np.where(target, 1.0, np.nan)),
    "beyond one": lambda target: _float_file(np.where(target, 3.7, 0.2)),
}
# of any convention: empty, of another size, or no image
NO_MASK: dict[str, Callable[[np.ndarray], Any]] = {
    "empty": lambda target: _png(np.zeros_like(target)),
    "one pixel": lambda target: _png(np.ones((1, 1), bool)),
    "one line": lambda target: _png(np.ones((1, target.shape[1]), bool)),
    "lying": lambda target: _png(target.T),
    "smaller": lambda target: _png(target[::2, ::2]),
    "larger": lambda target: _png(np.pad(target, ((0, 1), (0, 0)))),
    "text": lambda target: {"bytes": b"no mask", "path": None},
    "a path to nothing": lambda target: {"bytes": None, "path": "nowhere/mask.png"},
}
