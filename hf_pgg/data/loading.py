"""Opening what a user names: data sets by Hub id, folder or file, images by path; and reading rows one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from datasets import Dataset, DatasetDict, Image, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from hf_pgg.data.images import encode_png, open_image, stored_feature, to_rgb, undecoded
from hf_pgg.data.provenance import naming_row

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
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        files += inside if path.is_dir() else [path]
    if not files:
        raise ValueError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in {', '.join(paths)}")
    return files


def read_column(batch: Mapping[str, Sequence[Any]], name: str) -> Sequence[Any]:
    """Reads one column of a batch that `Dataset.map` hands over, images and clips as they are stored.

    So it is this library that decodes them, which names the row of a broken one and reads a closed list of formats.

    Example:
        >>> read_column(rows[:3], "label")
        [0, 1, 0]
    """
    features = getattr(getattr(batch, "formatter", None), "features", None) or {}
    is_stored = stored_feature(features.get(name)) is not None
    return batch.pa_table[name].to_pylist() if is_stored and hasattr(batch, "pa_table") else batch[name]


_as_stored: WeakKeyDictionary[Dataset, Dataset] = WeakKeyDictionary()  # casting costs more than reading a row


def read_row(dataset: Dataset, index: int) -> dict[str, Any]:
    """Reads one row of a source pool, its images decoded by [`~hf_pgg.data.images.open_image`].

    Raises:
        ProvenanceError: If one of its images cannot be decoded; the message names the row.

    Example:
        >>> read_row(rows, 3)["row_id"]
        3
    """
    if dataset.format["type"] == "custom":  # the user's transform reads what `datasets` decodes
        with naming_row(index, "source"):
            return dataset[index]
    if dataset not in _as_stored:
        _as_stored[dataset] = undecoded(dataset)
    row = _as_stored[dataset][index]
    with naming_row(index, "source"):
        return {
            name: open_image(value) if isinstance(dataset.features[name], Image) and value is not None else value
            for name, value in row.items()
        }


def named_images(dataset: Dataset, column: str, names: Sequence[object] | None = None) -> Iterator[np.ndarray]:
    """Yields a column's images, (H, W, 3) uint8 each.

    Args:
        names (`Sequence`, *optional*): How an error names each row; by default by its index.

    Raises:
        ProvenanceError: If an image cannot be read; the message names the row.

    Example:
        >>> [image.shape for image in named_images(rows.select([0, 1]), "image")]
        [(16, 16, 3), (16, 16, 3)]
    """
    for name, row in zip(names or range(len(dataset)), undecoded(dataset.select_columns(column)), strict=True):
        with naming_row(name, column):
            image = to_rgb(row[column])
        yield image


def eight_bit(dataset: Dataset, column: str, white: float, **map_kwargs: Any) -> Dataset:
    """Rewrites a column of images whose range their values do not prove (12 bits in 16, floats of 0 to 255) in 8 bits.

    Args:
        white (`float`): The stored value that is white, such as 4095; 0 is black.
        map_kwargs: Passed on to `Dataset.map` (`num_proc`, ...).

    Raises:
        ProvenanceError: If an image cannot be read, or holds a value above `white`; the message names the row.

    Example:
        >>> from PIL.Image import fromarray
        >>> scans = Dataset.from_dict({"scan": [fromarray(np.full((8, 8), 4095, np.uint16))]})
        >>> eight_bit(scans, "scan", white=4095)[0]["scan"].getpixel((0, 0))
        (255, 255, 255)
    """

    def rewritten(value: Any, index: int) -> dict[str, Any]:
        with naming_row(index, column):
            return {column: value and encode_png(to_rgb(value, white))}

    kept = {"input_columns": column, "with_indices": True, "features": dataset.features}
    return undecoded(dataset).map(rewritten, **kept, **map_kwargs)
