"""Contact sheets: what a generator made of each class, at a glance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from hf_pgg.data.images import resize, to_rgb
from hf_pgg.data.provenance import IMAGE


def write_contact_sheets(
    read: Callable[[list[int]], Iterable[Mapping[str, Any]]],
    labels: np.ndarray,
    names: Sequence[str],
    folder: str | Path,
    per_class: int = 32,
) -> list[Path]:
    """Writes a contact sheet of each class to `contact_sheets` of a folder: images evenly spaced over its rows.

    Args:
        read: Row numbers to rows with a column `image`.
        labels: (N,) integers, the class of each row; a class without rows has no sheet.
        names: The names of the classes.

    Returns:
        The paths of the PNG files.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     paths = write_contact_sheets(rows.select, np.array(rows["label"]), ["cat", "dog"], folder)
        >>> [path.name for path in paths]
        ['000-cat.png', '001-dog.png']
    """
    sheets, written = Path(folder) / "contact_sheets", []
    sheets.mkdir(exist_ok=True)
    for label in np.unique(labels):
        numbers = np.flatnonzero(labels == label)
        chosen = numbers[np.linspace(0, len(numbers) - 1, min(per_class, len(numbers))).astype(int)]
        path = sheets / f"{label:03d}-{''.join(c if c.isalnum() else '_' for c in names[label])}.png"
        PILImage.fromarray(_contact_sheet([to_rgb(row[IMAGE]) for row in read(chosen.tolist())])).save(path)
        written.append(path)
    return written


def _contact_sheet(images: Sequence[np.ndarray], columns: int = 8, side: int = 128) -> np.ndarray:
    """Images (H, W, 3) side by side, each fitted into a square of `side` pixels on grey: (H, W, 3) uint8."""
    columns = min(columns, len(images))
    lines = -(-len(images) // columns)
    sheet = np.full((lines * side, columns * side, 3), 128, np.uint8)
    for place, image in enumerate(images):
        scale = side / max(image.shape[:2])
        height, width = (max(round(length * scale), 1) for length in image.shape[:2])
        top, left = ((side - length) // 2 for length in (height, width))
        top, left = top + place // columns * side, left + place % columns * side
        sheet[top : top + height, left : left + width] = resize(image, (height, width))
    return sheet
