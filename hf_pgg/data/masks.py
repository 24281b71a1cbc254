"""Masks of objects as people have them, and the one reader that knows what their numbers mean.

| stored                                             | read as                                                      |
| -------------------------------------------------- | ------------------------------------------------------------ |
| bool; 0 and 1; 0 and 255; 0 and 65535 (16 bits)    | background and object                                        |
| float in [0, 1] that reaches 1/2                   | share of the object in the pixel                             |
| 8 or 16 bits from end to end, soft at borders      | share of the object, divided by the highest value            |
| an image whose alpha channel alone says something  | opacity: 0 background, 255 object                            |
| a palette of greys; a coloured one                 | its brightness; its indices, a label map                     |
| label map, trimap, anything else                   | the pixels of `target_value`, without which it is refused    |

*Soft* is a mask with the background and the object at both ends of its range, on at least half of its pixels, whose
values between them run smoothly: areas of one such value make it a label map, and so do 255 beside small numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PILImage
from scipy.ndimage import maximum_filter, minimum_filter

from hf_pgg.data.images import open_image, resize_frames
from hf_pgg.data.video import SampledClip

_CHANNELS = ("red", "green", "blue", "alpha")
# what stands for the object beside 0: in numbers, in an alpha channel, in a palette whose 0 is black, in another one
_OBJECT = {"grey": (1, 255, 65535), "jpeg": (1, 255), "opacity": (1, 255), "indices": (1,), "colours": ()}


@dataclass(frozen=True)
class MaskSettings:
    """What a mask's numbers mean, where they do not say it themselves.

    Args:
        target_value (`float`, *optional*): The object's number in a label map (1 in the Oxford pets' trimaps).
        ignore_value (`float`, *optional*): The number of pixels that are neither (255 in Pascal VOC): they are no part
            of the object, and metrics leave them out.
        channel (`str`, *optional*): `"red"`, `"green"`, `"blue"` or `"alpha"`: the channel that holds the mask.

    Raises:
        ValueError: If the channel is none of these, or one number is to be both.

    Example:
        >>> read_mask(np.array([[0, 15, 255]]), settings=MaskSettings(target_value=15, ignore_value=255))
        ObjectMask(target=array([[0., 1., 0.]], dtype=float32), ignored=array([[False, False,  True]]))
    """

    target_value: float | None = None
    ignore_value: float | None = None
    channel: str | None = None

    def __post_init__(self) -> None:
        if self.channel not in (None, *_CHANNELS):
            raise ValueError(f"channel is {self.channel!r}: give one of {', '.join(_CHANNELS)}")
        if self.target_value is not None and self.target_value == self.ignore_value:
            raise ValueError(f"target_value and ignore_value are both {self.target_value}: give two different numbers")


class ObjectMask(NamedTuple):
    """A mask that was read: the object's share of each pixel, float32 in [0, 1], and the pixels to ignore, bool.

    Example:
        >>> read_mask(rows[0]["mask"]).target.sum()
        np.float32(64.0)
    """

    target: np.ndarray
    ignored: np.ndarray


def read_mask(
    value: Any, size: tuple[int, int] | None = None, settings: MaskSettings | None = None, *, may_be_empty: bool = False
) -> ObjectMask:
    """Reads a mask of any kind that the module lists, as two arrays (H, W).

    Args:
        value: An image as `datasets` holds it, or an array or nested list of numbers (H, W) or (H, W, channels).
        size (`tuple[int, int]`, *optional*): Width and height of the image that it belongs to, in pixels.
        may_be_empty (`bool`): Whether no pixel need be the object's.

    Raises:
        ValueError: If its numbers do not say what they mean, it has no pixel of the object, or is of another size.

    Example:
        >>> read_mask(np.array([[0, 1, 2]]))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: the mask holds 0, 1, 2, which does not say what the object is: give `target_value`, ...
    """
    settings = settings or MaskSettings()
    values, kind = _numbers(_image(value), settings)
    if size is not None and values.shape != size[::-1]:
        turned = "; if one is turned by its EXIF tag, turn the other, too" if values.shape == size else ""
        found = f"a mask of {values.shape[1]}x{values.shape[0]} for an image of {size[0]}x{size[1]}"
        raise ValueError(f"{found}: resize the mask with its image{turned}")
    return _meaning(values, kind, settings, may_be_empty)


def read_masks(
    value: Any,
    shape: tuple[int, int, int],
    settings: MaskSettings | None = None,
    *,
    indices: np.ndarray | None = None,
    may_be_empty: bool = False,
) -> np.ndarray:
    """Reads the masks of a clip of `shape` (T, H, W), or of the frames `indices` alone, as float32 in [0, 1].

    Args:
        value: A list of masks as [`read_mask`] takes them, one a frame, or one image in which they are stacked from
            top to bottom; as many and as large as the frames (else ValueError).
        may_be_empty (`bool`): Whether the object may be out of sight in all frames that are read.

    Example:
        >>> [int(mask[8].argmax()) for mask in read_masks(clips[0]["masks"], (8, 16, 16), indices=np.array([0, 7]))]
        [0, 7]
    """
    settings = settings or MaskSettings()
    length, height, width = shape
    wanted = np.arange(length) if indices is None else indices
    if isinstance(value, list | tuple):
        if len(value) != length:
            raise ValueError(f"{len(value)} masks for a clip of {length} frames")
        images = [_image(value[index]) for index in wanted.tolist()]
        together = _joined(images)
        read = [_numbers(image, settings) for image in ([together] if together is not None else images)]
        masks, kind = [values for values, _ in read], read[0][1]
        if any(other != kind for _, other in read):
            raise ValueError("the masks of the frames are stored in different ways: store all in one way")
        masks = np.split(masks[0], len(images)) if together is not None else masks
    else:
        stacked, kind = _numbers(_image(value), settings)
        if stacked.shape[0] % length:
            raise ValueError(f"a mask of height {stacked.shape[0]} does not hold {length} frames")
        masks = list(stacked.reshape(length, -1, stacked.shape[1]))
    for mask in masks:
        if mask.shape != (height, width):
            found = f"{length} masks of {mask.shape[1]}x{mask.shape[0]}"
            raise ValueError(f"{found} for frames of {width}x{height}: resize the masks with their frames")
    target = _meaning(np.concatenate(masks), kind, settings, may_be_empty).target.reshape(-1, height, width)
    return target if len(target) == len(wanted) else target[wanted]


def read_clip_masks(value: Any, clip: SampledClip, settings: MaskSettings | None = None) -> np.ndarray:
    """Reads a clip's masks at its sampled frames as [`read_masks`] does, brought to the size of these frames.

    The object may be out of sight in all of them.

    Example:
        >>> clip = SampledClip(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 7]), 8, (16, 16))
        >>> read_clip_masks(clips[0]["masks"], clip).sum((1, 2))
        array([4., 4.], dtype=float32)
    """
    shape = (clip.length, *clip.stored_size)
    masks = read_masks(value, shape, settings, indices=clip.indices, may_be_empty=True)
    return resize_frames(masks, clip.size)


# ---------------------------------------------------------------------------------------------- which numbers


def _image(value: Any) -> PILImage.Image | np.ndarray:
    """A mask as an image, or as an array (H, W) of numbers."""
    if not isinstance(value, PILImage.Image | Mapping | str | None):
        array = np.asarray(value)
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[..., 0]
        if array.ndim == 2 and array.dtype.kind in "buif" and array.size:
            return array
        if array.ndim != 3 or array.dtype != np.uint8:
            raise ValueError(f"a mask of shape {array.shape} and {array.dtype}: give numbers (H, W), or an image")
        value = PILImage.fromarray(array)
    image = open_image(value)
    return image.convert("RGB") if image.mode in ("CMYK", "YCbCr", "LAB", "HSV") else image


def _joined(images: list[Any]) -> PILImage.Image | None:
    """The masks of frames in one image: only together they say what an empty one means. None if they differ in kind."""
    first = images[0]
    if any(isinstance(image, np.ndarray) or (image.mode, image.size) != (first.mode, first.size) for image in images):
        return None
    joined = PILImage.fromarray(np.concatenate([np.asarray(image) for image in images]))
    if first.mode == "P":
        if any(image.getpalette("RGB") != first.getpalette("RGB") for image in images):
            return None
        joined.putpalette(first.getpalette("RGB"))
    joined.info.update(first.info)
    return joined


def _numbers(image: PILImage.Image | np.ndarray, settings: MaskSettings) -> tuple[np.ndarray, str]:
    """The numbers (H, W) that hold the mask, and their kind: one of `_OBJECT`."""
    if isinstance(image, np.ndarray):
        return _of_channel(image, settings)
    if image.mode == "P" and (settings.target_value is not None or "transparency" not in image.info):
        return _of_palette(image, settings)
    grey = "jpeg" if "jfif" in image.info else "grey"  # of a JPEG, small numbers may be noise
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        return _of_channel(np.asarray(image), settings, grey)
    if image.mode in ("LA", "La", "PA", "P", "RGBA", "RGBa"):
        return _of_alpha(np.asarray(image.convert("RGBA")), settings)
    return _of_colours(np.asarray(image.convert("RGB")), settings), grey


def _of_channel(values: np.ndarray, settings: MaskSettings, kind: str = "grey") -> tuple[np.ndarray, str]:
    if settings.channel is not None:
        raise ValueError(f"channel is {settings.channel!r}, but the mask has one channel only: leave it out")
    return values, kind


def _of_palette(image: PILImage.Image, settings: MaskSettings) -> tuple[np.ndarray, str]:
    """Of a palette of greys the brightness, where no number is asked for; otherwise the indices."""
    colours, indices = np.asarray(image.convert("RGB")), np.asarray(image)
    if settings.target_value is None and (colours == colours[..., :1]).all():
        return _of_channel(colours[..., 0], settings)
    return _of_channel(indices, settings, "colours" if colours[indices == 0].any() else "indices")


def _of_colours(colours: np.ndarray, settings: MaskSettings) -> np.ndarray:
    if settings.channel in _CHANNELS[:3]:
        return colours[..., _CHANNELS.index(str(settings.channel))]
    if settings.channel is not None:
        raise ValueError("channel is 'alpha', but the mask has no alpha channel")
    if (colours == colours[..., :1]).all():
        return colours[..., 0]
    found = np.unique(colours.reshape(-1, 3), axis=0)
    some = ", ".join(str(tuple(colour)) for colour in found[:4].tolist())
    raise ValueError(
        f"the mask has {len(found)} colours ({some}{', ...' if len(found) > 4 else ''}), which do not say what the"
        " object is: give `channel`, or store the classes as numbers and give `target_value`"
    )


def _of_alpha(rgba: np.ndarray, settings: MaskSettings) -> tuple[np.ndarray, str]:
    colours, alpha = rgba[..., :3], rgba[..., 3]
    if settings.channel == "alpha":
        return alpha, "opacity"
    if settings.channel is not None or (alpha == 255).all():
        return _of_colours(colours, settings), "grey"
    # white and opaque on black and transparent is both
    agrees = (colours == colours[0, 0]).all() or ((colours > 127) == (alpha[..., None] > 127)).all()
    if agrees and ((alpha == 0).all() or np.ptp(alpha)):
        return alpha, "opacity"
    raise ValueError(
        'the mask may be in its colours or in its alpha channel: give `channel` ("alpha" for the mask of a cut-out)'
    )


# ---------------------------------------------------------------------------------------------- what they mean


def _meaning(values: np.ndarray, kind: str, settings: MaskSettings, may_be_empty: bool) -> ObjectMask:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("the mask holds NaN or infinity")
    none = np.zeros(values.shape, bool)
    ignored = none if settings.ignore_value is None else values == settings.ignore_value
    target: np.ndarray
    if settings.target_value is not None:
        target = (values == settings.target_value).astype(np.float32)
        problem = f"no pixel of the mask is {settings.target_value} (`target_value`): it holds {_found(values)}"
    else:
        full = _full_value(np.where(ignored, 0, values) if ignored.any() else values, kind)
        if full is None:
            raise ValueError(
                f"the mask holds {_found(values)}, which does not say what the object is: give `target_value`, the"
                " object's number (and `ignore_value`, if some pixels are neither), or store 0 and 255, or a soft mask"
                " as the alpha channel of an image"
            )
        target = np.where(ignored, 0, values).astype(np.float32) / np.float32(full)
        problem = "the mask has no pixel of the object"
    if not may_be_empty and not target.any():
        raise ValueError(f"{problem}. Where the object is not known, give None")
    return ObjectMask(target, ignored)


def _full_value(values: np.ndarray, kind: str) -> int | None:
    """The number that stands for the whole object where the values prove it, else None."""
    highest = values.max()
    for full in _OBJECT[kind]:
        if highest <= full and ((values == 0) | (values == full)).all():
            return full
    if kind == "opacity":
        return 255
    if kind not in ("grey", "jpeg") or values.min() < 0:
        return None
    if values.dtype.kind == "f" and highest <= 1:
        return None if highest < 0.5 or _is_class_ids(values * 255) else 1
    bits = 65535 if values.dtype.kind in "ui" and highest > 255 else 255
    return bits if _is_soft(values.astype(np.float32) * np.float32(255 / bits), kind == "jpeg") else None


def _is_class_ids(values: np.ndarray) -> bool:
    """Whether small numbers stand beside 255, with none between."""
    small, between = (values > 0.5) & (values < 32), (values >= 32) & (values < 254.5)
    return bool(small.any() and not between.any())


def _is_soft(values: np.ndarray, is_noisy: bool = False) -> bool:
    """Whether a mask, brought to 8 bits, is soft as the module says."""
    ends = (values <= 8).mean() + (values >= 247).mean()
    if values.min() > 8 or not 247 <= values.max() <= 255 or ends < 0.5:
        return False
    if not is_noisy and (_is_class_ids(values) or len(np.unique(values)) <= 3):
        return False
    between = (values > 0) & (values < 255)
    flat = between & (minimum_filter(values, 3) == maximum_filter(values, 3))
    return bool(maximum_filter(flat, 3).sum() < between.sum() / 2)


def _found(values: np.ndarray) -> str:
    distinct = np.unique(values)
    if len(distinct) <= 8:
        return ", ".join(f"{number:g}" for number in distinct.astype(np.float64))
    return f"{len(distinct)} values from {distinct[0]:g} to {distinct[-1]:g}"
