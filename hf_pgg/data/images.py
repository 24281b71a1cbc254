"""Images and masks as arrays: reading every kind that `datasets` holds, and writing 8-bit PNGs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import numpy as np
import torch
from datasets import Dataset, Image, IterableDataset, List, Video
from PIL import Image as PILImage
from PIL import ImageOps
from PIL.TiffImagePlugin import TiffImageFile
from torchvision.transforms.v2 import functional as F

DatasetKind = TypeVar("DatasetKind", Dataset, IterableDataset)
PILImage.init()
FORMATS = tuple(
    name for name in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF") if name in PILImage.OPEN
)
"""The file formats that are read. PIL knows more, some of which start other programs, as PostScript does."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_WIDE = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # modes whose values do not say which of them is white


def open_image(value: Any, white: float | None = None) -> PILImage.Image:
    """Opens an image as `datasets` holds it: a PIL image, `{"bytes", "path"}`, a path, or an array or tensor.

    The pixels are read, so that a truncated file fails here. The EXIF orientation is applied.

    Args:
        value: The image. An array is (H, W) or (H, W, channels), a tensor (H, W) or (channels, H, W).
        white (`float`, *optional*): The value of an array that is white, see [`to_uint8`].

    Raises:
        ValueError: If there is no image, it cannot be decoded, its format is not in `FORMATS`, it has more pixels than
            PIL's limit, or it is an array of values whose range is not known.

    Example:
        >>> open_image(encode_png(np.zeros((4, 6, 3)))).size
        (6, 4)
    """
    if isinstance(value, torch.Tensor):
        value = (value.movedim(0, -1) if value.ndim == 3 else value).cpu().numpy()
    if isinstance(value, np.ndarray):
        return PILImage.fromarray(to_uint8(value, white))
    file = value.get("bytes") or value.get("path") if isinstance(value, Mapping) else value
    if not file or not isinstance(file, (PILImage.Image, bytes, str)):
        raise ValueError(f"there is no image (found {type(value).__name__})")
    try:
        image = file if isinstance(file, PILImage.Image) else _open_file(file)
        if image.format not in (None, "MPO", "DIB", *FORMATS):  # not yet decoded, and never to be
            raise PILImage.UnidentifiedImageError
        depth = _depth_of_file(image)
        image.load()
        if depth == "colour" and np.asarray(image).max() < 64:
            raise ValueError("16-bit colour so dark that its range is not known: convert it to 8 bits a channel")
        image = ImageOps.exif_transpose(image)
    except PILImage.UnidentifiedImageError as error:
        raise ValueError(f"the image cannot be decoded (it is no {', '.join(FORMATS)})") from error
    except PILImage.DecompressionBombError as error:
        remedy = "reduce it, or raise `PIL.Image.MAX_IMAGE_PIXELS`"
        raise ValueError(f"the image is too large ({str(error).partition(', could')[0]}): {remedy}") from error
    except Exception as error:  # broken bytes lead PIL's decoders to errors of every kind
        raise ValueError(f"the image cannot be decoded ({error or type(error).__name__})") from error
    if 0 in image.size:
        raise ValueError(f"the image has no pixels (size {image.size[0]}x{image.size[1]})")
    if isinstance(depth, int):
        image.info["white"] = depth
    return image


def image_files(paths: Sequence[str]) -> list[Path]:
    """Lists the image files named, and those in the folders named, sorted within each folder.

    Raises:
        ValueError: If a path does not exist, or there is no image.

    Example:
        >>> image_files(["photo.jpg"])
        Traceback (most recent call last):
        ValueError: photo.jpg does not exist
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        files += inside if path.is_dir() else [path]
    if not files:
        raise ValueError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {', '.join(paths)}")
    return files


def _open_file(file: bytes | str) -> PILImage.Image:
    if isinstance(file, bytes):
        return PILImage.open(io.BytesIO(file), formats=FORMATS)
    if "://" not in file:
        return PILImage.open(file, formats=FORMATS)
    with fsspec.open(file, "rb") as remote:
        return PILImage.open(io.BytesIO(remote.read()), formats=FORMATS)


def _depth_of_file(image: PILImage.Image) -> int | str | None:
    """What a file says of its range: the value that is white in one wide channel, or "colour" for 16-bit colour."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    bits = tags.get(258, (8,))[0]
    if bits > 8 and (tags.get(262) == 0 or tags.get(284) == 2):
        raise ValueError(f"a TIFF of {bits} bits with white as zero or one plane a channel: convert it to 8 bits")
    if image.mode not in _WIDE:  # of 16-bit colour PIL keeps the upper 8 bits
        return "colour" if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())) else None
    if image.format in ("PPM", "JPEG2000"):  # PIL scales these by the range that they state
        return 65535
    return 2**bits - 1 if 8 < bits < 16 else None


def to_uint8(array: np.ndarray, white: float | None = None) -> np.ndarray:
    """Brings an image (H, W) or (H, W, channels) to 8 bits, where the range of its values is stated or provable.

    Read as they are: uint8, booleans, floats in [0, 1], 16-bit values beyond 14 bits, and whole numbers in [0, 255]
    that are not 16-bit. Other values may be of any range (12 bits in 16, fractions up to 255, normalised pixels): say
    which one is white.

    Args:
        white (`float`, *optional*): The value that is white, where it is not uint8; 0 is black.

    Raises:
        ValueError: If the range is not known, a value lies outside it or is NaN, or the shape is not an image's.

    Example:
        >>> to_uint8(np.array([[0.0, 0.5, 1.0]])), to_uint8(np.array([[0, 4095]], np.uint16), white=4095)
        (array([[  0, 128, 255]], dtype=uint8), array([[  0, 255]], dtype=uint8))
    """
    if 0 in array.shape:
        raise ValueError(f"the image has no pixels (array of shape {array.shape})")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] > 4):
        raise ValueError(f"an array of shape {array.shape} is no image: give (H, W), (H, W, 3) or (H, W, 4)")
    if array.dtype.kind not in "buif":
        raise ValueError(f"an array of {array.dtype} is no image: give uint8, or floats in [0, 1]")
    if array.dtype == np.uint8:
        return array
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("the image holds NaN or infinity")
    stated, white = white is not None, _provable_white(array, low, high) if white is None else white
    rounding = white / 510  # half a step of 8 bits: interpolation overshoots by a rounding error
    if low < -rounding or high > white + rounding:
        known = f"white is stated as {white:g}" if stated else "which of them is white is not known"
        remedy = "give uint8, floats in [0, 1], or the value that is white (`white=` of `to_rgb`, `eight_bit`)"
        raise ValueError(f"the image holds {array.dtype} values from {low:g} to {high:g}, and {known}: {remedy}")
    return np.rint(np.clip(array * (255 / white), 0, 255)).astype(np.uint8)


def _provable_white(array: np.ndarray, low: float, high: float) -> float:
    """The only white that these values allow; -1, which no value keeps to, if there is none."""
    if low == high == 0 or array.dtype == bool or (array.dtype.kind == "f" and high <= 1 + 1 / 510):
        return 1.0
    is_whole = array.dtype.kind != "f" or bool((array == np.rint(array)).all())
    if is_whole and 1 < high <= 255 and array.dtype.newbyteorder("=") != np.uint16:
        return 255.0
    return 65535.0 if array.dtype.kind != "f" and 2**14 <= high < 2**16 else -1.0


def to_rgb(value: Any, white: float | None = None) -> np.ndarray:
    """Reads an image of any kind as (H, W, 3) uint8.

    Grey is repeated, palettes and CMYK are converted, transparency is laid on black. Wide values are scaled as
    [`to_uint8`] does. Errors are its own, and those of [`open_image`].

    Example:
        >>> to_rgb(np.array([[0.0, 1.0]])).tolist()
        [[[0, 0, 0], [255, 255, 255]]]
    """
    image = _narrowed(open_image(value, white), white)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = PILImage.alpha_composite(PILImage.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.array(image.convert("RGB"))


def _narrowed(image: PILImage.Image, white: float | None = None) -> PILImage.Image:
    """The image with at most 8 bits a channel."""
    if image.mode not in _WIDE:
        return image
    return PILImage.fromarray(to_uint8(np.asarray(image), white or image.info.get("white")))


def encode_png(array: np.ndarray) -> dict[str, Any]:
    """Writes an image or mask (H, W[, 3]) as the value of an `Image` column. Values are read as [`to_uint8`] does.

    Example:
        >>> encode_png(np.zeros((4, 6)))["bytes"][1:4]
        b'PNG'
    """
    buffer = io.BytesIO()
    PILImage.fromarray(to_uint8(array)).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def stored_feature(feature: Any) -> Any:
    """Returns the feature of images or clips that are read undecoded; None for every other feature.

    Example:
        >>> stored_feature(List(Image())), stored_feature(rows.features["label"])
        (List(Image(mode=None, decode=False)), None)
    """
    if isinstance(feature, (Image, Video)) and feature.decode:
        return type(feature)(decode=False)
    inner = stored_feature(feature.feature) if isinstance(feature, List) else None
    return inner and List(inner)


def undecoded(dataset: DatasetKind) -> DatasetKind:
    """Returns the dataset with its images and clips as they are stored, for code that decodes them itself.

    Example:
        >>> sorted(undecoded(rows)[0]["image"])
        ['bytes', 'path']
    """
    for name, feature in (dataset.features or {}).items():
        stored = stored_feature(feature)
        if stored is not None:
            dataset = dataset.cast_column(name, stored)
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
    # a single plane comes out wrong at width 1 (torch 2.15): give it a twin; torch has no flipped views: copy
    planes = frames if frames.ndim == 4 else np.stack([frames] * (2 if shape[1] == 1 else 1), -1)
    channels_last = np.array(planes, order="C")
    channels_first = torch.from_numpy(channels_last).permute(0, 3, 1, 2)
    resized = F.resize(channels_first, list(shape), antialias=True).permute(0, 2, 3, 1).numpy()
    return resized if frames.ndim == 4 else resized[..., 0]


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Writes a mask (H, W) as the value of an `Image` column; the frames (T, H, W) of a clip are stacked downwards.

    Args:
        mask (`np.ndarray`): bool, integers 0 and 1, uint8 in [0, 255], or float in [0, 1], of which a trace
            nowhere above 1 of 255 is stored as empty.

    Example:
        >>> decode_mask(encode_mask(np.array([[True, False]])))
        array([[255,   0]], dtype=uint8)
    """
    mask = np.asarray(mask)
    if mask.ndim == 3:
        mask = mask.reshape(-1, mask.shape[-1])
    if mask.ndim != 2:
        raise ValueError(f"a mask has shape {mask.shape}: give (H, W), or (T, H, W) for a clip")
    if mask.dtype.kind in "iu" and mask.size and mask.max() == 1:
        mask = mask.astype(bool)
    if mask.dtype.kind == "f" and mask.size and mask.max() < 1.5 / 255:
        mask = np.zeros_like(mask)
    return encode_png(mask)


def decode_mask(value: Any, num_frames: int | None = None) -> np.ndarray:
    """Reads a mask that [`encode_mask`] wrote as uint8: (H, W), or (T, H, W) for a clip of `num_frames`.

    Raises:
        ValueError: If its height is not that of `num_frames` frames, or it is nothing that [`encode_mask`] writes: of 0
            and 1, of colours or with a palette.

    Example:
        >>> decode_mask(clips[0]["masks"], num_frames=8).shape
        (8, 16, 16)
    """
    image = open_image(value)
    if image.mode not in ("1", "L"):
        raise ValueError(f"a stored mask is an image of mode {image.mode}: write it with `encode_mask`, of mode L")
    mask = np.array(image.convert("L"))
    if mask.max() == 1:
        raise ValueError("the highest value of a stored mask is 1, of 255: write it with `encode_mask`")
    if num_frames is None:
        return mask
    if mask.shape[0] % num_frames:
        raise ValueError(f"a mask of height {mask.shape[0]} does not hold {num_frames} frames")
    return mask.reshape(num_frames, -1, mask.shape[1])
