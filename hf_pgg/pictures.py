"""Pictures and masks as arrays: reading every kind that `datasets` holds, and writing 8-bit PNGs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset, Image, List, Video
from PIL import Image as PILImage
from PIL import ImageOps


def open_picture(value: Any) -> PILImage.Image:
    """A picture as a PIL image from what `datasets` holds: a PIL image, `{"bytes", "path"}`, a path, or an array.

    The pixels are read, so that a truncated file fails here. The EXIF orientation is applied.

    Raises:
        ValueError: If there is no picture, it cannot be decoded, or an array holds NaN.
    """
    if isinstance(value, PILImage.Image):
        picture = value
    elif isinstance(value, np.ndarray):
        picture = PILImage.fromarray(_array_to_uint8(value))
    elif isinstance(value, Mapping) and (value.get("bytes") or value.get("path")):
        picture = PILImage.open(io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"])
    elif isinstance(value, str):
        picture = PILImage.open(value)
    else:
        raise ValueError(f"there is no picture (found {type(value).__name__})")
    try:
        picture.load()
    except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for some broken PNGs
        raise ValueError(f"the picture cannot be decoded ({error})") from error
    if 0 in picture.size:
        raise ValueError(f"the picture has no pixels (size {picture.size[0]}x{picture.size[1]})")
    return ImageOps.exif_transpose(picture)


def _array_to_uint8(array: np.ndarray) -> np.ndarray:
    """(H, W[, C]) array to uint8; floats are taken as [0, 1], 16-bit integers as [0, 65535], booleans as 0 and 255."""
    if 0 in array.shape:
        raise ValueError(f"the picture has no pixels (array of shape {array.shape})")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ValueError("the picture holds NaN or infinity")
        return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    if array.dtype == np.uint16:
        return np.rint(array / 257).astype(np.uint8)
    return array.astype(np.uint8) * 255 if array.dtype == bool else array.astype(np.uint8)


def to_rgb(value: Any) -> np.ndarray:
    """A picture of any kind as (H, W, 3) uint8.

    Grey is repeated, palettes and CMYK are converted, 16-bit grey is scaled to 8 bits, transparency is laid on black.
    """
    picture = open_picture(value)
    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
        grey = np.asarray(picture).astype(np.float64) / 257
        picture = PILImage.fromarray(np.rint(np.clip(grey, 0, 255)).astype(np.uint8))
    elif picture.mode == "F":
        picture = PILImage.fromarray(_array_to_uint8(np.asarray(picture)))
    elif picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = PILImage.alpha_composite(PILImage.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.array(picture.convert("RGB"))


def encode_png(array: np.ndarray) -> dict[str, Any]:
    """(H, W[, 3]) picture or mask (uint8, bool, or float in [0, 1]) as the value of an `Image` column."""
    buffer = io.BytesIO()
    PILImage.fromarray(_array_to_uint8(array)).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W), or (T, H, W) for a clip, as an 8-bit PNG; the T frames are stacked from top to bottom.

    Args:
        mask (`np.ndarray`): bool, uint8 in [0, 255], or float in [0, 1].
    """
    mask = np.asarray(mask)
    if mask.ndim == 3:
        mask = mask.reshape(-1, mask.shape[-1])
    if mask.ndim != 2:
        raise ValueError(f"a mask is (H, W) or (T, H, W), not {mask.shape}")
    return encode_png(mask)


def decode_mask(value: Any, num_frames: int | None = None) -> np.ndarray:
    """The uint8 mask (H, W), or (T, H, W) if `num_frames` is given, that `encode_mask` wrote."""
    mask = np.array(open_picture(value).convert("L"))
    if num_frames is None:
        return mask
    if mask.shape[0] % num_frames:
        raise ValueError(f"a mask of height {mask.shape[0]} does not hold {num_frames} frames")
    return mask.reshape(num_frames, -1, mask.shape[1])


def mask_to_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box (x, y, width, height) in pixels around a bool mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def undecoded(dataset: Dataset) -> Dataset:
    """The dataset with its pictures and clips as they are stored, for code that decodes them itself."""
    for name, feature in dataset.features.items():
        if isinstance(feature, Image) and feature.decode:
            dataset = dataset.cast_column(name, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image) and feature.feature.decode:
            dataset = dataset.cast_column(name, List(Image(decode=False)))
        elif isinstance(feature, Video) and feature.decode:
            dataset = dataset.cast_column(name, Video(decode=False))
    return dataset


def boxes_to_mask(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(N, 4) boxes `[x, y, width, height]` in pixels to one bool mask (H, W): the pixels whose centre lies in a box."""
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    mask = np.zeros(shape, bool)
    for x, y, width, height in boxes:
        mask |= np.outer((rows >= y) & (rows <= y + height), (columns >= x) & (columns <= x + width))
    return mask
