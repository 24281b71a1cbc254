"""Synthesized samples to look at before training: rows of any data set, a method, and a contact sheet of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from matplotlib.figure import Figure

from hf_pgg.demo_data import OTHER_PHOTOGRAPHS, digits_on_photographs, photographs
from hf_pgg.pictures import decode_mask, open_picture, to_rgb
from hf_pgg.provenance import IMAGE, LABEL_WEIGHTS, LABELS, PROVENANCE, class_label, validate_row
from hf_pgg.synthesis import BackgroundExchange, Composite, CutMix, ResizeMix
from hf_pgg.visualization import overlay

EMBEDDED = "digits on photographs"
SYNTHESES = ("composite", "exchange", "cutmix", "resizemix", "none")
_ROW_ID = "previewed_row"


def open_rows(name: str | None, split: str = "train", config: str | None = None) -> Dataset:
    """A split of a Hub data set, of a folder (pictures, parquet, or `save_to_disk`), or of a parquet file.

    Args:
        name (`str`, *optional*): None for the embedded digits on photographs.

    Raises:
        FileNotFoundError: If a path does not exist, or the Hub has no such data set.
        ValueError: If there is no such split, or a file is not parquet.
    """
    if name is None:
        splits = digits_on_photographs()
    elif Path(name).is_file():
        if Path(name).suffix != ".parquet":
            raise ValueError(f"{name} is neither a parquet file nor a folder")
        return load_dataset("parquet", data_files=name, split="train")
    elif Path(name).is_dir() and any((Path(name) / file).is_file() for file in ("state.json", "dataset_dict.json")):
        splits = load_from_disk(name)
    elif Path(name).is_dir() or not (Path(name).is_absolute() or name.startswith(".")):
        return load_dataset(name, config, split=split)
    else:
        raise FileNotFoundError(f"{name} does not exist")
    if isinstance(splits, DatasetDict):
        if split not in splits:
            raise ValueError(f"there is no split '{split}': choose {', '.join(splits)}")
        return splits[split]
    return splits


def method_for(name: str, rows: Dataset, backgrounds: Dataset | None = None, *, embedded: bool, **options: Any) -> Any:
    """A synthesis method by name, as the recipe sets it up; None for `"none"`.

    Args:
        rows (`Dataset`): The rows with provenance, and the pool of partners.
        backgrounds (`Dataset`, *optional*): Of composites.
        embedded (`bool`): The rows are digits, which must not be mirrored.
        options: Of the method: `seed`, `image_column`, ...

    Raises:
        ValueError: If composites have no backgrounds.
    """
    if name == "none":
        return None
    if name == "composite":
        if backgrounds is None and not embedded:
            raise ValueError("composites need background pictures: give --backgrounds, or another --synthesis")
        pool = photographs(OTHER_PHOTOGRAPHS) if backgrounds is None else backgrounds
        size = open_picture(rows[0][options.get("image_column", IMAGE)]).size[0]
        return Composite(backgrounds=pool, size=size, flip=0.0 if embedded else 0.5, scale=(0.6, 0.9), **options)
    kinds: Any = {"exchange": BackgroundExchange, "cutmix": CutMix, "resizemix": ResizeMix}
    return kinds[name](source=rows, **options)


def synthesized(method: Any, rows: Dataset, count: int) -> Dataset:
    """Evenly spaced rows after the method: the very samples that `method.map(rows)` holds at their places.

    Raises:
        ProvenanceError: If a row or a sample does not keep the contract; the message names it.
    """
    indices = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    chosen = rows.select(indices)
    if method is not None:
        numbered = type(method)(**{**_fields(method), "row_id_column": _ROW_ID})
        chosen = numbered.map(chosen.add_column(_ROW_ID, indices)).remove_columns(_ROW_ID)
    return chosen


def _fields(method: Any) -> dict[str, Any]:
    return {name: field for name, field in vars(method).items() if method.__dataclass_fields__[name].init}


@dataclass(frozen=True)
class SheetSample:
    """What the sheet shows of a row: picture (H, W, 3) uint8, masks (H, W) in [0, 1] or None, and words."""

    picture: np.ndarray
    masks: Sequence[np.ndarray] | None
    words: str

    @property
    def coverage(self) -> float | None:
        """Share of the picture that comes from a label's object; None without provenance."""
        return None if self.masks is None else float(np.clip(sum(self.masks), 0, 1).mean())


def sheet_samples(rows: Dataset, image_column: str = IMAGE, label_column: str = "label") -> list[SheetSample]:
    """The rows as the sheet shows them, each checked against the contract.

    Raises:
        ProvenanceError: Naming the row, the column and the remedy.
    """
    label, samples = class_label(rows.features, label_column), []
    for number, row in enumerate(rows):
        validate_row(row, number, label.num_classes, image_column=image_column, label_column=label_column)
        names = [label.int2str(value) for value in row.get(LABELS) or [row[label_column]]]
        weights = row.get(LABEL_WEIGHTS) or [1.0]
        words = " + ".join(
            name if len(names) == 1 else f"{name} ({weight:.0%})" for name, weight in zip(names, weights, strict=True)
        )
        known = row.get(PROVENANCE)
        masks = None if known is None else [decode_mask(mask).astype(np.float32) / 255 for mask in known]
        samples.append(SheetSample(to_rgb(row[image_column]), masks, words))
    return samples


def contact_sheet(samples: Sequence[SheetSample], title: str, columns: int = 4) -> Figure:
    """Each sample beside its provenance; `columns` samples a line.

    The right picture of a pair is grey where no label's object is; each source has a colour, the first one green.
    """
    columns = min(columns, len(samples))
    lines = -(-len(samples) // columns)
    figure = Figure(figsize=(3.3 * columns, 1.75 * lines + 0.35), layout="constrained")
    figure.suptitle(title, fontsize=9)
    parts = figure.subfigures(lines, columns, squeeze=False, wspace=0.06, hspace=0)
    for part, sample in zip(parts.flat, samples, strict=False):
        left, right = part.subplots(1, 2)
        left.imshow(sample.picture)
        left.set_title(sample.words, fontsize=8)
        grey = np.repeat(sample.picture.mean(2, keepdims=True), 3, axis=2)
        if sample.masks is None:
            right.imshow(np.rint(0.3 * grey + 0.7 * 255).astype(np.uint8))
            right.set_title("no provenance", fontsize=8)
        else:
            right.imshow(overlay(grey.astype(np.uint8), sample.masks, strength=0.7))
            right.set_title(f"{sample.coverage:.0%} object", fontsize=8)
        for axes in (left, right):
            axes.set_axis_off()
    return figure
