"""Images that a tag of their file (EXIF) turns or mirrors when they are shown, and what is annotated on them.

Everything is taken in the image as it is shown, masks in theirs. Where an annotation was made on the stored pixels,
other sizes show it as a rule, and an error says so; what sizes cannot show is warned of.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image as PILImage

from hf_pgg.data.images import FORMATS, undecoded

_TAG = 274
_SIDEWAYS = range(5, 9)  # the tags that exchange width and height


def _read_tag(value: Any) -> tuple[int, bool]:
    """The tag of a stored image, 1 where nothing turns it, and whether it is square."""
    try:
        if isinstance(value, PILImage.Image):
            return value.getexif().get(_TAG, 1), value.width == value.height
        if isinstance(value, str):
            value = {"path": value}
        if not isinstance(value, dict) or not (value.get("bytes") or Path(value.get("path") or "").is_file()):
            return 1, False
        file = io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"]
        with PILImage.open(file, formats=FORMATS) as image:
            tag = image.getexif().get(_TAG, 1)
            return (tag if tag in range(2, 9) else 1), image.width == image.height
    except (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError):
        return 1, False  # the reader of the image names its row


def is_turned(value: Any, sized: bool = False) -> bool:
    """Returns whether an image as `datasets` stores it is turned or mirrored by its EXIF tag when it is shown.

    Args:
        sized (`bool`): Only where width and height do not show it: of a square, or turned by 180 degrees or mirrored.

    Example:
        >>> is_turned(undecoded(rows)[0]["image"])
        False
    """
    tag, square = _read_tag(value)
    return tag != 1 and (not sized or square or tag not in _SIDEWAYS)


def turned_rows(dataset: Dataset, column: str, indices: Sequence[int] | None = None, sized: bool = False) -> list[int]:
    """Returns the rows whose image [`is_turned`].

    Example:
        >>> turned_rows(rows, "image")
        []
    """
    stored = undecoded(dataset.select_columns(column))
    chosen = range(len(dataset)) if indices is None else indices
    return [i for i in chosen if is_turned(stored[int(i)][column], sized)]


def warn_of_turned(dataset: Dataset, column: str, what: str, rows: Sequence[int] | None = None, **options: Any) -> None:
    """Warns of the rows whose image [`is_turned`], that `what` is taken in the image as it is shown.

    Example:
        >>> warn_of_turned(rows, "image", "the boxes")
    """
    turned = turned_rows(dataset, column, rows, **options)
    if turned:
        warnings.warn(
            f"column '{column}': {len(turned)} images, the first in row {turned[0]}, are turned by their EXIF tag;"
            f" {what} are taken in the image as it is shown",
            stacklevel=4,
        )


def is_turned_apart(image: Any, mask: Any) -> bool:
    """Returns whether the EXIF tags turn an image and its mask differently, and their sizes do not show if they fit.

    Example:
        >>> is_turned_apart(undecoded(rows)[0]["image"], undecoded(rows)[0]["mask"])
        False
    """
    (own, square), (other, _) = _read_tag(image), _read_tag(mask)
    return own != other and (square or (own in _SIDEWAYS) == (other in _SIDEWAYS))


def warn_of_masks_turned_apart(dataset: Dataset, image_column: str, mask_column: str) -> None:
    """Warns of the rows whose image and mask [`is_turned_apart`] finds.

    Example:
        >>> warn_of_masks_turned_apart(rows, "image", "mask")
    """
    stored = undecoded(dataset.select_columns([image_column, mask_column]))
    apart = [i for i, row in enumerate(stored) if is_turned_apart(row[image_column], row[mask_column])]
    if apart:
        warnings.warn(
            f"the EXIF tags of {len(apart)} images in column '{image_column}', the first in row {apart[0]}, and of"
            f" their masks in column '{mask_column}' differ, and sizes do not show whether they fit: each is taken as"
            " it is shown, so look at one, and store both upright",
            stacklevel=3,
        )
