"""Opening what a user names: data sets by Hub id, folder or file, images by path; and reading rows one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from datasets import Dataset, DatasetDict, Image, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from hf_pgg.data.formats import read_annotated, read_objects
from hf_pgg.data.images import encode_png, open_image, stored_feature, to_rgb, undecoded
from hf_pgg.data.labels import encode_classes, is_scalar
from hf_pgg.data.provenance import IMAGE, LABELS, naming_row

_NUMBERED = ("string", "large_string", "int", "uint", "bool")  # what becomes a class


class Annotations(NamedTuple):
    """Annotations of images: beside a folder of them, or in a column of objects; see [`hf_pgg.data.formats`].

    Args:
        path (`str`): File (COCO) or folder of them; `{split}` in it, and in the name of the folder of images, is
            replaced by the split. Of `"objects"` the column.
        format (`str`): One of [`~hf_pgg.data.formats.FORMATS`].
        names (`Sequence[str]`): The classes in order, which YOLO files number.
        box_format (`str`, *optional*): Of a column of objects, see [`~hf_pgg.data.boxes.read_boxes`].

    Example:
        >>> Annotations("instances_{split}.json").format
        'coco'
    """

    path: str
    format: str = "coco"
    names: Sequence[str] = ()
    box_format: str | None = None


def open_dataset(
    name: str,
    split: str = "train",
    config_name: str | None = None,
    columns: Mapping[str, str] | None = None,
    label_column: str = "label",
    class_columns: Sequence[str] = (),
    annotations: Annotations | None = None,
) -> Dataset:
    """Opens a split of a data set.

    Args:
        name (`str`): A Hub id, a folder (of images, of parquet files, or written by `save_to_disk`), or a parquet file.
        split (`str`): The split; a parquet file, and a folder saved without splits, are taken whole.
        config_name (`str`, *optional*): The configuration of a data set that has several.
        columns (`Mapping[str, str]`, *optional*): Columns to rename, theirs to ours: transforms and collators have one
            name for an image and its label. A column that has our name already, and is not the one meant, gives way.
        label_column (`str`): Column of the classes: strings and integers are numbered over all splits, see
            [`~hf_pgg.data.labels.encode_classes`]. A folder of class folders that has no such column gets it.
        class_columns (`Sequence[str]`): Further columns that are numbered so, under their own names.
        annotations ([`Annotations`], *optional*): Of the images: they give `image`, `label`, the contract's columns,
            and `bbox` (`[x, y, width, height]` of every object).

    Raises:
        ValueError: If there is no such data set, split or column.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> rows.select_columns(["image", "label"]).save_to_disk(folder)
        >>> open_dataset(folder, columns={"label": "animal"}).column_names
        ['image', 'animal']
    """
    if annotations is not None and annotations.format != "objects":
        file, folder = (part.replace("{split}", split) for part in (annotations.path, name))
        return _renamed(read_annotated(file, folder, annotations.format, annotations.names or None), name, columns)
    path = Path(name)
    if path.is_file() and path.suffix != ".parquet":
        raise ValueError(f"{name} is neither a parquet file nor a folder")
    if not path.exists() and (path.is_absolute() or name.startswith(".")):
        raise ValueError(f"{name} does not exist")
    rows = _load(name, config_name, split)
    if isinstance(rows, DatasetDict):
        if split not in rows:
            raise ValueError(f"there is no split '{split}': choose {', '.join(rows)}")
        rows = rows[split]
    named = {ours: theirs for theirs, ours in (columns or {}).items()}
    if annotations is not None:
        return read_objects(rows, annotations.box_format, annotations.path, named.get(IMAGE, IMAGE))
    label = named.get(label_column, label_column)
    rows = _with_folder_classes(rows, path, label)
    features = {column: rows.features.get(column) for column in (label, *class_columns)}
    numbered = [key for key, own in features.items() if isinstance(own, Value) and is_scalar(own, *_NUMBERED)]
    whole = _load(name, config_name) if numbered else None  # a class may be in another split alone
    parts = dict(whole) if isinstance(whole, DatasetDict) else {}
    parts = {key: _with_folder_classes(part, path, label) for key, part in parts.items()}
    for column in numbered:
        known = {key: part for key, part in parts.items() if column in part.column_names}
        rows = encode_classes({**known, split: rows}, column)[split]
    return _renamed(rows, name, columns)


def _renamed(rows: Dataset, name: str, columns: Mapping[str, str] | None) -> Dataset:
    """The rows with columns under our names, `columns` from theirs to ours."""
    for theirs, ours in (columns or {}).items():
        if theirs not in rows.column_names:
            raise ValueError(f"{name} has no column '{theirs}' but {', '.join(rows.column_names)}")
        if theirs != ours:
            rows = (rows.remove_columns(ours) if ours in rows.column_names else rows).rename_column(theirs, ours)
    return rows


def _load(name: str, config_name: str | None, split: str | None = None) -> Dataset | DatasetDict:
    """A split, or all that there are; a folder written by `save_to_disk` and a file are taken whole."""
    path = Path(name)
    try:
        if path.is_file():
            return load_dataset("parquet", data_files=name, split="train")
        if any((path / file).is_file() for file in ("state.json", "dataset_dict.json")):
            return load_from_disk(name)
        return load_dataset(name, config_name, split=split)
    except (DatasetsError, OSError, ValueError) as error:
        problem = str(error).splitlines()[0]
        if not path.exists():
            problem = f"there is no folder or file of that name, and from the Hub: {problem}"
        if "Unknown split" in problem:
            problem += f" Name one of them, or give the folder that holds a folder '{split}'."
        raise ValueError(f"the data set {name} cannot be opened: {problem}") from error


def _with_folder_classes(rows: Dataset, folder: Path, label_column: str) -> Dataset:
    """The rows with their class folders' names as labels, which `datasets` drops beside a `metadata.csv`."""
    known = {label_column, LABELS} & set(rows.column_names)
    if known or not folder.is_dir() or not isinstance(rows.features.get(IMAGE), Image) or len(rows) == 0:
        return rows
    stored = rows.select_columns(IMAGE).with_format("arrow")[:][IMAGE].combine_chunks()
    parents = [Path(path or ".").parent for path in stored.field("path").to_pylist()]
    names = [parent.name for parent in parents]
    beneath = all(folder.resolve() in parent.parents for parent in parents)
    if not beneath or len({len(parent.parts) for parent in parents}) > 1 or len(set(names)) < 2:
        return rows
    return rows.add_column(label_column, names)


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
    """Reads one row of a source pool, its images decoded by [`~hf_pgg.data.images.open_image`]; an error names the row.

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

    One that cannot be read is a ProvenanceError, which names the row by `names`, by default by its index.

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

    `white` is the stored value that is white, such as 4095; 0 is black. An image that cannot be read, or holds a value
    above `white`, is a ProvenanceError, which names the row. `map_kwargs` go to `Dataset.map` (`num_proc`, ...).

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
