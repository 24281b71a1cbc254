"""Contact sheets: what a generator made of each class, at a glance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from hf_pgg.data.images import resize, to_rgb
from hf_pgg.data.provenance import IMAGE
from hf_pgg.generation.prompts import single_label
from hf_pgg.generation.resumable import Generation


def contact_sheet(rows: Sequence[Mapping[str, Any]], columns: int = 8, side: int = 128) -> np.ndarray:
    """Images (column `image`) side by side, each fitted into a square of `side` pixels on grey: (H, W, 3) uint8."""
    columns = min(columns, len(rows))
    lines = -(-len(rows) // columns)
    sheet = np.full((lines * side, columns * side, 3), 128, np.uint8)
    for place, row in enumerate(rows):
        image = to_rgb(row[IMAGE])
        scale = side / max(image.shape[:2])
        height, width = (max(round(length * scale), 1) for length in image.shape[:2])
        top, left = ((side - length) // 2 for length in (height, width))
        top, left = top + place // columns * side, left + place % columns * side
        sheet[top : top + height, left : left + width] = resize(image, (height, width))
    return sheet


def write_contact_sheets(generation: Generation, per_class: int = 32) -> list[Path]:
    """One PNG a class in `contact_sheets` of a published folder; see [`write_class_sheets`]."""
    labels = np.tile(np.asarray(generation.source[generation.label_column]), generation.versions)
    names = single_label(generation.source.features, generation.label_column).names
    return write_class_sheets(generation.store().read, labels, names, generation.folder, per_class)


def write_class_sheets(
    read: Callable[[list[int]], Sequence[Mapping[str, Any]]],
    labels: np.ndarray,
    names: Sequence[str],
    folder: str | Path,
    per_class: int = 32,
) -> list[Path]:
    """One PNG a class in `contact_sheets` of `folder`, of images evenly spaced over the class's rows.

    Args:
        read: Row numbers to rows with a column `image`.
        labels: (N,) integers, the class of each row; a class without rows has no sheet.
        names: Of the classes.

    Returns:
        The files' paths.
    """
    sheets, written = Path(folder) / "contact_sheets", []
    sheets.mkdir(exist_ok=True)
    for label in np.unique(labels):
        numbers = np.flatnonzero(labels == label)
        chosen = numbers[np.linspace(0, len(numbers) - 1, min(per_class, len(numbers))).astype(int)]
        path = sheets / f"{label:03d}-{''.join(c if c.isalnum() else '_' for c in names[label])}.png"
        PILImage.fromarray(contact_sheet(read(chosen.tolist()))).save(path)
        written.append(path)
    return written
