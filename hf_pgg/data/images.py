"""Images and masks as arrays: reading every kind that `datasets` holds, and writing 8-bit PNGs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image, List, Video
from PIL import Image as PILImage
from PIL import ImageOps
from torchvision.transforms.v2 import functional as F


def open_image(value: Any) -> PILImage.Image:
    """Opens an image as `datasets` holds it: a PIL image, `{"bytes", "path"}`, a path, or an array.

    The pixels are read, so that a truncated file fails here. The EXIF orientation is applied.

    Raises:
        ValueError: If there is no image, it cannot be decoded, or an array holds NaN.

    Example:
        >>> open_image(encode_png(np.zeros((4, 6, 3)))).size
        (6, 4)
    """
    if isinstance(value, PILImage.Image):
        image = value
    elif isinstance(value, np.ndarray):
        image = PILImage.fromarray(_array_to_uint8(value))
    elif isinstance(value, Mapping) and (value.get("bytes") or value.get("path")):
        image = PILImage.open(io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"])
    elif isinstance(value, str):
        image = PILImage.open(value)
    else:
        raise ValueError(f"there is no image (found {type(value).__name__})")
    try:
        image.load()
    except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for some broken PNGs
        raise ValueError(f"the image cannot be decoded ({error})") from error
    if 0 in image.size:
        raise ValueError(f"the image has no pixels (size {image.size[0]}x{image.size[1]})")
    return ImageOps.exif_transpose(image)


def _array_to_uint8(array: np.ndarray) -> np.ndarray:
    """(H, W[, C]) array to uint8; floats are taken as [0, 1], 16-bit integers as [0, 65535], booleans as 0 and 255."""
    if 0 in array.shape:
        raise ValueError(f"the image has no pixels (array of shape {array.shape})")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ValueError("the image holds NaN or infinity")
        return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    if array.dtype == np.uint16:
        return np.rint(array / 257).astype(np.uint8)
    return array.astype(np.uint8) * 255 if array.dtype == bool else array.astype(np.uint8)


def to_rgb(value: Any) -> np.ndarray:
    """Reads an image of any kind as (H, W, 3) uint8.

    Grey is repeated, palettes and CMYK are converted, 16-bit grey is scaled to 8 bits, transparency is laid on black.

    Example:
        >>> to_rgb(np.array([[0.0, 1.0]])).tolist()
        [[[0, 0, 0], [255, 255, 255]]]
    """
    image = open_image(value)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        grey = np.asarray(image).astype(np.float64) / 257
        image = PILImage.fromarray(np.rint(np.clip(grey, 0, 255)).astype(np.uint8))
    elif image.mode == "F":
        image = PILImage.fromarray(_array_to_uint8(np.asarray(image)))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = PILImage.alpha_composite(PILImage.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.array(image.convert("RGB"))


def encode_png(array: np.ndarray) -> dict[str, Any]:
    """Writes an image or mask (H, W[, 3]), uint8, bool, or float in [0, 1], as the value of an `Image` column.

    Example:
        >>> encode_png(np.zeros((4, 6)))["bytes"][1:4]
        b'PNG'
    """
    buffer = io.BytesIO()
    PILImage.fromarray(_array_to_uint8(array)).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def undecoded(dataset: Dataset) -> Dataset:
    """Returns the dataset with its images and clips as they are stored, for code that decodes them itself.

    Example:
        >>> sorted(undecoded(rows)[0]["image"])
        ['bytes', 'path']
    """
    for name, feature in dataset.features.items():
        if isinstance(feature, Image) and feature.decode:
            dataset = dataset.cast_column(name, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image) and feature.feature.decode:
            dataset = dataset.cast_column(name, List(Image(decode=False)))
        elif isinstance(feature, Video) and feature.decode:
            dataset = dataset.cast_column(name, Video(decode=False))
    return dataset


def resize(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resizes an array (H, W[, C]) to `shape` (height, width), antialiased bilinear; the dtype is kept.

    Example:
        >>> resize(np.array([[0, 0, 100, 100]], np.uint8), (1, 2))
        array([[14, 86]], dtype=uint8)
    """
    return resize_frames(array[None], shape)[0]


def resize_frames(frames: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resizes frames or masks (T, H, W[, C]) as [`resize`] does one.

    Example:
        >>> resize_frames(np.zeros((8, 16, 16, 3)), (4, 6)).shape
        (8, 4, 6, 3)
    """
    if frames.shape[1:3] == tuple(shape):
        return frames
    channels_last = np.ascontiguousarray(frames if frames.ndim == 4 else frames[..., None])
    channels_first = torch.from_numpy(channels_last).permute(0, 3, 1, 2)
    resized = F.resize(channels_first, list(shape), antialias=True).permute(0, 2, 3, 1).numpy()
    return resized if frames.ndim == 4 else resized[..., 0]


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Writes a mask (H, W) as the value of an `Image` column; the frames (T, H, W) of a clip are stacked downwards.

    Args:
        mask (`np.ndarray`): bool, uint8 in [0, 255], or float in [0, 1].

    Example:
        >>> decode_mask(encode_mask(np.array([[True, False]])))
        array([[255,   0]], dtype=uint8)
    """
    mask = np.asarray(mask)
    if mask.ndim == 3:
        mask = mask.reshape(-1, mask.shape[-1])
    if mask.ndim != 2:
        raise ValueError(f"a mask has shape {mask.shape}: give (H, W), or (T, H, W) for a clip")
    return encode_png(mask)


def decode_mask(value: Any, num_frames: int | None = None) -> np.ndarray:
    """Reads a mask that [`encode_mask`] wrote as uint8: (H, W), or (T, H, W) for a clip of `num_frames`.

    Raises:
        ValueError: If its height is not that of `num_frames` frames.

    Example:
        >>> decode_mask(clips[0]["masks"], num_frames=8).shape
        (8, 16, 16)
    """
    mask = np.array(open_image(value).convert("L"))
    if num_frames is None:
        return mask
    if mask.shape[0] % num_frames:
        raise ValueError(f"a mask of height {mask.shape[0]} does not hold {num_frames} frames")
    return mask.reshape(num_frames, -1, mask.shape[1])
