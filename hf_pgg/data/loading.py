"""loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import UnidentifiedImageError

from hf_pgg.data.images import open_image
from hf_pgg.data.provenance import ProvenanceError

# ---------------------------------------------------------------------------------------------- reading


def read_column(batch: Mapping[str, Sequence[Any]], name: str, indices: Sequence[int] | None = None) -> Sequence[Any]:
    """One column of a batch; an image that cannot be decoded is named by its row instead of failing anonymously."""
    try:
        return batch[name]
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raw = batch.pa_table[name].to_pylist() if hasattr(batch, "pa_table") else []
        for i, value in enumerate(raw):
            try:
                for image in value if isinstance(value, list) else [value]:
                    open_image(image)
            except (ValueError, OSError):
                row = i if indices is None else indices[i]
                raise ProvenanceError(row, name, f"the image cannot be decoded ({error})", "Remove the row.") from error
        raise


def read_row(dataset: Dataset, index: int) -> dict[str, Any]:
    """One row of a source pool.

    Raises:
        ProvenanceError: If one of its images cannot be decoded.
    """
    try:
        return dataset[index]
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise ProvenanceError(index, "source", f"an image cannot be decoded ({error})", "Remove the row.") from error


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


# ---------------------------------------------------------------------------------------------- command line


def image_files(paths: Sequence[str]) -> list[Path]:
    """The image files named, and those in the folders named, sorted within each folder.

    Raises:
        ValueError: If a path does not exist, or there is no image.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else [path]
        files += inside
    if not files:
        raise ValueError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {', '.join(paths)}")
    return files
