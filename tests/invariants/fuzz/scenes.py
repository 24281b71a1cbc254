"""Images of objects in pure colours, in every mode, file and orientation; and what is no image.

A scene is painted in one colour for the object and another for the rest. Whatever a method makes of it, a pixel's
colour then says which image it stems from, and whether from its object: the truth about a mask, without a mask.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

ORIENTATION = 274  # the EXIF tag
# how a stored image is turned when it is shown, by the tag's value
_SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
_STORED = {**_SHOWN, 6: _SHOWN[8], 8: _SHOWN[6]}  # the inverse


def stored_turned(shown: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores of an image that is to be shown so."""
    return np.ascontiguousarray(_STORED[orientation](shown))


def draw_target(rng: np.random.Generator, size: tuple[int, int] | None = None) -> np.ndarray:
    """A rectangle or an ellipse in an image of 1 to 80 pixels a side, as bool (H, W)."""
    if size is None:
        low, high = ((1, 4), (8, 33), (8, 33), (8, 33), (33, 81))[rng.integers(5)]
        size = int(rng.integers(low, high)), int(rng.integers(low, high))
    height, width = size
    tall, wide = (int(rng.integers(max(side // 3, 1), max(2 * side // 3, 1) + 1)) for side in size)
    top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    y, x = np.mgrid[:height, :width]
    target = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    if rng.random() < 0.4 and min(tall, wide) > 6:
        target &= ((y - top - tall / 2 + 0.5) / tall) ** 2 + ((x - left - wide / 2 + 0.5) / wide) ** 2 <= 0.25
    return target


def _paint(target: np.ndarray, colours: np.ndarray) -> np.ndarray:
    return colours[target.astype(int)]


def _colours(rng: np.random.Generator, grey: bool = False) -> np.ndarray:
    """Colours (2, 3) uint8 of the rest and the object, unlike each other and unlike a pool's pure ones."""
    dark, light = rng.integers(20, 70, 3), rng.integers(150, 205, 3)
    if grey:  # of 16 bits, what is darker proves no range
        dark[:], light[:] = 65, light[0]
    else:
        light[rng.integers(3)] = rng.integers(20, 70)
    return np.array([dark, light] if rng.random() < 0.5 else [light, dark], np.uint8)


def file_of(image: PILImage.Image, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    """An image as a file's bytes, as an `Image` column holds it."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def _exif(orientation: int) -> PILImage.Exif:
    exif = PILImage.Exif()
    exif[ORIENTATION] = orientation
    return exif


def turned_file(array: np.ndarray, orientation: int, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    """A file with an orientation tag that is to be shown as `array`."""
    return file_of(PILImage.fromarray(stored_turned(array, orientation)), kind, exif=_exif(orientation), **options)


Drawn = tuple[Any, np.ndarray]


def _rgb(kind: str = "PNG", mode: str = "RGB", **options: Any) -> Callable[..., Drawn]:
    def draw(rng: np.random.Generator, target: np.ndarray) -> Drawn:
        shown = _paint(target, _colours(rng))
        return file_of(PILImage.fromarray(shown).convert(mode), kind, **options), shown

    return draw


def _grey(change: Callable[[np.ndarray], Any]) -> Callable[..., Drawn]:
    """A grey image, whose values (H, W) uint8 are stored as `change` says."""

    def draw(rng: np.random.Generator, target: np.ndarray) -> Drawn:
        shown = _paint(target, _colours(rng, grey=True))
        return change(shown[..., 0]), shown

    return draw


def _jpeg(rng: np.random.Generator, target: np.ndarray) -> Drawn:
    mode = str(rng.choice(["RGB", "L", "CMYK"]))
    painted = PILImage.fromarray(_paint(target, _colours(rng, grey=mode == "L"))).convert(mode)
    stored = file_of(painted, "JPEG", quality=97, subsampling=0)
    return stored, np.asarray(PILImage.open(io.BytesIO(stored["bytes"])).convert("RGB"))


def _turned(rng: np.random.Generator, target: np.ndarray) -> Drawn:
    shown, kind = _paint(target, _colours(rng)), str(rng.choice(["PNG", "TIFF", "WEBP", "JPEG"]))
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    return turned_file(shown, int(rng.integers(1, 9)), kind, **options), shown


def _see_through(rng: np.random.Generator, target: np.ndarray) -> Drawn:
    """Transparency is laid on black."""
    colours, alpha = _colours(rng), np.array([rng.integers(128, 256), 255])
    stored = np.dstack([_paint(target, colours), alpha[target.astype(int)].astype(np.uint8)])
    return file_of(PILImage.fromarray(stored)), _paint(
        target, np.rint(colours * (alpha[:, None] / 255)).astype(np.uint8)
    )


def _palette(rng: np.random.Generator, target: np.ndarray) -> Drawn:
    colours = _colours(rng)
    image = PILImage.fromarray(target.astype(np.uint8)).convert("P")
    image.putpalette(colours.tobytes())
    if rng.random() < 0.5:
        return file_of(image, str(rng.choice(["PNG", "GIF", "BMP"]))), _paint(target, colours)
    clear = int(rng.integers(2))
    colours[clear] = 0
    return file_of(image, transparency=clear), _paint(target, colours)


def _clear_colour(rng: np.random.Generator, target: np.ndarray) -> Drawn:
    colours = _colours(rng)
    stored = file_of(PILImage.fromarray(_paint(target, colours)), transparency=tuple(colours[0].tolist()))
    colours[0] = 0
    return stored, _paint(target, colours)


def _one_bit(rng: np.random.Generator, target: np.ndarray) -> Drawn:
    bits = target if rng.random() < 0.5 else ~target
    return file_of(PILImage.fromarray(bits)), _paint(bits, np.array([[0] * 3, [255] * 3], np.uint8))


def _in_folder(folder: Path) -> Callable[..., Drawn]:
    def draw(rng: np.random.Generator, target: np.ndarray) -> Drawn:
        stored, shown = _rgb()(rng, target)
        path = folder / f"{len(list(folder.iterdir()))}.png"
        path.write_bytes(stored["bytes"])
        return {"bytes": None, "path": str(path)}, shown

    return draw


def _tiff(dtype: Any, scale: float = 1.0) -> Callable[..., Drawn]:
    return _grey(lambda grey: file_of(PILImage.fromarray((grey.astype(np.float64) * scale).astype(dtype)), "TIFF"))


def image_kinds(folder: Path) -> dict[str, Callable[..., Drawn]]:
    """How to draw an image of each kind: `(rng, target) -> (stored value, image as it must be read)`."""
    return {
        "RGB": _rgb(),
        "RGB, lossless WebP": _rgb("WEBP", lossless=True),
        "RGB, BMP": _rgb("BMP"),
        "RGB, TIFF": _rgb("TIFF"),
        "RGB, PPM": _rgb("PPM"),
        "RGB, JPEG2000": _rgb("JPEG2000", irreversible=False),
        "CMYK, TIFF": _rgb("TIFF", "CMYK"),
        "opaque RGBA": _rgb("PNG", "RGBA"),
        "RGBA": _see_through,
        "a clear colour": _clear_colour,
        "P": _palette,
        "1": _one_bit,
        "L": _grey(lambda grey: file_of(PILImage.fromarray(grey))),
        "opaque LA": _grey(lambda grey: file_of(PILImage.fromarray(grey).convert("LA"))),
        "I;16": _grey(lambda grey: file_of(PILImage.fromarray(grey.astype(np.uint16) * 257))),
        "I;16, TIFF": _tiff(np.uint16, 257),
        "I of 0..255": _tiff(np.int32),
        "F of 0..1": _tiff(np.float32, 1 / 255),
        "whole F of 0..255": _tiff(np.float32),
        "array of uint8": _grey(lambda grey: grey),
        "array of floats": _grey(lambda grey: (grey / 255).astype(np.float32)),
        "array of int64": _grey(lambda grey: grey.astype(np.int64)),
        "array of uint16": _grey(lambda grey: grey.astype(np.uint16) * 257),
        "PIL image": _grey(PILImage.fromarray),
        "JPEG": _jpeg,
        "turned by its tag": _turned,
        "a path": _in_folder(folder),
    }


@lru_cache
def _bomb() -> bytes:
    return bytes(file_of(PILImage.new("1", (20000, 20000)))["bytes"])


def _broken_file(content: bytes) -> dict[str, Any]:
    return {"bytes": content, "path": None}


# what is no image, or one of a range that nobody knows: `grey (H, W) uint8 -> stored value`
NO_IMAGES: dict[str, Callable[[np.ndarray], Any]] = {
    "12 bits in 16": lambda grey: file_of(PILImage.fromarray(grey.astype(np.uint16) * 16)),
    "fractions of 0..255": lambda grey: file_of(PILImage.fromarray(grey.astype(np.float32) + 0.25), "TIFF"),
    "NaN": lambda grey: file_of(PILImage.fromarray(np.full(grey.shape, np.nan, np.float32)), "TIFF"),
    "negative": lambda grey: file_of(PILImage.fromarray(-grey.astype(np.int32)), "TIFF"),
    "270": lambda grey: file_of(PILImage.fromarray(np.full(grey.shape, 270, np.int32)), "TIFF"),
    "normalised": lambda grey: file_of(PILImage.fromarray(grey.astype(np.float32) / 64 - 1.7), "TIFF"),
    "a truncated PNG": lambda grey: _broken_file(
        file_of(PILImage.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9), np.uint8)))["bytes"][:-40]
    ),
    "a truncated JPEG": lambda grey: _broken_file(file_of(PILImage.new("RGB", (64, 64)), "JPEG")["bytes"][:-60]),
    "text": lambda grey: _broken_file(b"not an image at all"),
    "PostScript": lambda grey: _broken_file(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
    "no bytes": lambda grey: _broken_file(b""),
    "None": lambda grey: None,
    "a path to nothing": lambda grey: {"bytes": None, "path": "nowhere/photo.png"},
    "a bomb": lambda grey: _broken_file(_bomb()),
}
