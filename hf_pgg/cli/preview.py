"""Synthesized samples to look at before training: rows of any data set, a method, and a contact sheet of both."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from datasets import Dataset

from hf_pgg.data.annotations import add_provenance
from hf_pgg.data.images import open_image
from hf_pgg.data.loading import open_dataset
from hf_pgg.data.provenance import IMAGE, PROVENANCE
from hf_pgg.demo_data import OTHER_PHOTOGRAPHS, digits_on_photographs, photographs
from hf_pgg.reports.figures import MOST_IMAGES, _write, contact_sheet, sheet_samples
from hf_pgg.synthesis import BackgroundExchange, Composite, CutMix, ResizeMix

EMBEDDED = "digits on photographs"
SYNTHESES = ("composite", "exchange", "cutmix", "resizemix", "none")
_ROW_ID = "previewed_row"


def open_rows(name: str | None, split: str = "train", config: str | None = None) -> Dataset:
    """A split of a Hub data set, of a folder (images, parquet, or `save_to_disk`), or of a parquet file.

    Args:
        name (`str`, *optional*): None for the embedded digits on photographs.

    Raises:
        ValueError: If there is no such data set or split.
    """
    if name is not None:
        return open_dataset(name, split, config)
    splits = digits_on_photographs()
    if split not in splits:
        raise ValueError(f"there is no split '{split}': choose {', '.join(splits)}")
    return splits[split]


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
            raise ValueError("composites need background images: give --backgrounds, or another --synthesis")
        pool = photographs(OTHER_PHOTOGRAPHS) if backgrounds is None else backgrounds
        size = open_image(rows[0][options.get("image_column", IMAGE)]).size[0]
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


_PREVIEW = """
  hf-pgg preview
      the embedded digits on photographs: composites, no file needed
  hf-pgg preview photos/ --mask_column mask --synthesis cutmix --output cutmix.png
      CutMix of your own images (a folder of images or parquet, a parquet file, or a Hub id), objects from masks
  hf-pgg preview my/photos --box_column bbox --backgrounds my/scenes
      cut-outs by boxes, on images of another data set
  hf-pgg preview my/synthetic --synthesis none
      rows that keep the contract already, as they are

Left of each pair is the sample, right its provenance: coloured is where a label's object is, and where the label's
gradient may lie (the first source green, the second magenta). They are those that training with this seed gets."""


# ---------------------------------------------------------------------------------------------- commands


def _preview(args: argparse.Namespace) -> None:
    if not 1 <= args.count <= MOST_IMAGES:
        raise ValueError(f"--count {args.count}: a sheet holds 1 to {MOST_IMAGES} samples")
    rows = open_rows(args.dataset, args.split, args.config)
    columns = {"image_column": args.image_column, "label_column": args.label_column}
    if args.mask_column or args.box_column:
        masks = {"mask_column": args.mask_column, "box_column": args.box_column, "target_value": args.target_value}
        rows = add_provenance(rows, **masks, **columns)
    elif args.synthesis in ("composite", "exchange") and PROVENANCE not in rows.column_names:
        raise ValueError(f"--synthesis {args.synthesis} needs to know the object: give --mask_column or --box_column")
    backgrounds = None if args.backgrounds is None else open_rows(args.backgrounds)
    method = method_for(args.synthesis, rows, backgrounds, embedded=args.dataset is None, seed=args.seed, **columns)
    samples = sheet_samples(
        synthesized(method, rows, args.count), "image" if method else args.image_column, args.label_column
    )
    what = "as they are" if method is None else f"{type(method).__name__}, seed {args.seed}"
    title = f"{args.dataset or EMBEDDED}, {args.split}: {len(samples)} of {len(rows):,} rows, {what}"
    _write(contact_sheet(samples, title), args.output)
    known = [sample.coverage for sample in samples if sample.coverage is not None]
    print(title)
    if known:
        low, middle, high = np.percentile(known, [0, 50, 100])
        print(f"objects cover {low:.0%} to {high:.0%} of the image, half of them {middle:.0%} or less")
    if len(known) < len(samples):
        print(f"{len(samples) - len(known)} of {len(samples)} have no provenance, and would not be guided")
    print(f"written: {args.output}")
