"""Contact sheets: what a generator made of each class, at a glance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from hf_pgg.data.images import to_rgb
from hf_pgg.data.provenance import IMAGE
from hf_pgg.reports.sheets import contact_sheet


def write_contact_sheets(
    read: Callable[[list[int]], Iterable[Mapping[str, Any]]],
    labels: np.ndarray,
    names: Sequence[str],
    folder: str | Path,
    per_class: int = 32,
) -> list[Path]:
    """Writes a contact sheet (PNG) of each class to `contact_sheets` of a folder: images evenly spaced over its rows.

    Args:
        read: Row numbers to rows with a column `image`.
        labels: (N,) integers, the class of each row; a class without rows has no sheet.

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
        PILImage.fromarray(contact_sheet([to_rgb(row[IMAGE]) for row in read(chosen.tolist())])).save(path)
        written.append(path)
    return written
