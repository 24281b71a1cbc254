"""Opening what a user names: data sets by Hub id, folder or file, images by path; and reading rows one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError
from PIL import UnidentifiedImageError

from hf_pgg.data.images import open_image
from hf_pgg.data.provenance import ProvenanceError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def open_dataset(
    name: str, split: str = "train", config_name: str | None = None, columns: Mapping[str, str] | None = None
) -> Dataset:
    """Opens a split of a data set.

    Args:
        name (`str`): A Hub id, a folder (of images, of parquet files, or written by `save_to_disk`), or a parquet file.
        split (`str`): The split; a parquet file, and a folder saved without splits, are taken whole.
        config_name (`str`, *optional*): The configuration of a data set that has several.
        columns (`Mapping[str, str]`, *optional*): Columns to rename, theirs to ours: transforms and collators have one
            name for an image and its label. A column that has our name already, and is not the one meant, gives way.

    Raises:
        ValueError: If there is no such data set, split or column.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> rows.select_columns(["image", "label"]).save_to_disk(folder)
        >>> open_dataset(folder, columns={"label": "animal"}).column_names
        ['image', 'animal']
    """
    path = Path(name)
    if path.is_file() and path.suffix != ".parquet":
        raise ValueError(f"{name} is neither a parquet file nor a folder")
    if not path.exists() and (path.is_absolute() or name.startswith(".")):
        raise ValueError(f"{name} does not exist")
    try:
        if path.is_file():
            rows = load_dataset("parquet", data_files=name, split="train")
        elif any((path / file).is_file() for file in ("state.json", "dataset_dict.json")):
            rows = load_from_disk(name)
        else:
            rows = load_dataset(name, config_name, split=split)
    except (DatasetsError, OSError, ValueError) as error:
        raise ValueError(f"the data set {name} cannot be opened: {str(error).splitlines()[0]}") from error
    if isinstance(rows, DatasetDict):
        if split not in rows:
            raise ValueError(f"there is no split '{split}': choose {', '.join(rows)}")
        rows = rows[split]
    for theirs, ours in (columns or {}).items():
        if theirs not in rows.column_names:
            raise ValueError(f"{name} has no column '{theirs}' but {', '.join(rows.column_names)}")
        if theirs != ours:
            rows = (rows.remove_columns(ours) if ours in rows.column_names else rows).rename_column(theirs, ours)
    return rows


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
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else [path]
        files += inside
    if not files:
        raise ValueError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {', '.join(paths)}")
    return files


def read_column(batch: Mapping[str, Sequence[Any]], name: str, indices: Sequence[int] | None = None) -> Sequence[Any]:
    """Reads one column of a batch that `Dataset.map` hands over.

    Raises:
        ProvenanceError: If an image cannot be decoded; the message names its row by its index, or place in the batch.

    Example:
        >>> read_column(rows[:3], "label")
        [0, 1, 0]
    """
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
    """Reads one row of a source pool.

    Raises:
        ProvenanceError: If one of its images cannot be decoded; the message names the row.

    Example:
        >>> read_row(rows, 3)["row_id"]
        3
    """
    try:
        return dataset[index]
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise ProvenanceError(index, "source", f"an image cannot be decoded ({error})", "Remove the row.") from error
