"""`hf-pgg preview`: samples of a synthesis method and their provenance, to look at before training."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hf_pgg.cli.choices import MOST_IMAGES, SYNTHESES, add_annotation_options, annotations_of

if TYPE_CHECKING:
    from datasets import Dataset

HELP = "draw synthesized samples beside their provenance"
DESCRIPTION = "Draw synthesized samples beside their provenance."
EXAMPLES = """examples:
  hf-pgg preview
      the embedded digits on photographs: composites, no file needed
  hf-pgg preview photos/ --mask_column mask --synthesis cutmix --output cutmix.png
      CutMix of your own images (a folder of images or parquet, a parquet file, or a Hub id), objects from masks
  hf-pgg preview my/photos --box_column bbox --backgrounds my/scenes
      cut-outs by boxes, on images of another data set
  hf-pgg preview photos/ --annotations instances.json --backgrounds my/scenes
      cut-outs by COCO's annotations (boxes, polygons or run lengths), or YOLO's or Pascal VOC's
  hf-pgg preview my/synthetic --synthesis none
      rows that keep the contract already, as they are

Left of each pair is the sample, right its provenance: coloured is where a label's object is, and where the label's
gradient may lie (the first source green, the second magenta). They are those that training with this seed gets."""
_EMBEDDED = "digits on photographs"
_ROW_ID = "previewed_row"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `hf-pgg preview`.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_options(parser)
        >>> parser.parse_args(["photos/"]).synthesis
        'composite'
    """
    parser.add_argument("dataset", nargs="?", help="Hub id, folder or parquet file (default: the embedded data)")
    parser.add_argument("--split", default="train", help="split to show (%(default)s)")
    parser.add_argument("--config", help="configuration of the data set")
    parser.add_argument("--synthesis", default="composite", choices=SYNTHESES, help="method (%(default)s)")
    parser.add_argument("--backgrounds", help="data set of background images, for composites")
    parser.add_argument("--mask_column", help="mask of the object, where the rows have no provenance yet")
    parser.add_argument("--box_column", help="boxes of the object, instead")
    parser.add_argument("--box_format", help="what a box's numbers are: xywh, xyxy, cxcywh, yolo, ... (see the docs)")
    add_annotation_options(parser)
    parser.add_argument("--target_value", type=int, help="the object's value, where the mask is a label map")
    parser.add_argument("--image_column", default="image", help="column of the images (%(default)s)")
    parser.add_argument("--label_column", default="label", help="column of the labels (%(default)s)")
    parser.add_argument("--count", type=int, default=12, help=f"samples, at most {MOST_IMAGES} (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (%(default)s)")
    parser.add_argument("--output", default="preview.png", help="PNG to write (%(default)s)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    import numpy as np

    from hf_pgg.reports.figures import save_figure
    from hf_pgg.reports.sheets import sample_sheet, sheet_samples

    if not 1 <= args.count <= MOST_IMAGES:
        raise ValueError(f"--count {args.count}: a sheet holds 1 to {MOST_IMAGES} samples")
    rows = _rows(args)
    method = None if args.synthesis == "none" else _method(args, rows)
    shown = _synthesized(method, rows, args.count)
    samples = sheet_samples(shown, "image" if method else args.image_column, args.label_column)
    what = "as they are" if method is None else f"{type(method).__name__}, seed {args.seed}"
    title = f"{args.dataset or _EMBEDDED}, {args.split}: {len(samples)} of {len(rows):,} rows, {what}"
    save_figure(sample_sheet(samples, title), args.output)
    known = [sample.coverage for sample in samples if sample.coverage is not None]
    print(title)
    if known:
        low, middle, high = np.percentile(known, [0, 50, 100])
        print(f"objects cover {low:.0%} to {high:.0%} of the image, half of them {middle:.0%} or less")
    if len(known) < len(samples):
        print(f"{len(samples) - len(known)} of {len(samples)} have no provenance, and would not be guided")
    print(f"written: {args.output}")


def _rows(args: argparse.Namespace) -> Dataset:
    """The rows to synthesize from, with provenance where the method needs it."""
    from hf_pgg.data.annotations import add_provenance
    from hf_pgg.data.loading import open_dataset
    from hf_pgg.data.provenance import PROVENANCE
    from hf_pgg.demo_data import digits_on_photographs

    if args.dataset is not None:
        options = {"label_column": args.label_column, "annotations": annotations_of(args)}
        rows = open_dataset(args.dataset, args.split, args.config, **options)
    else:
        splits = digits_on_photographs()
        if args.split not in splits:
            raise ValueError(f"there is no split '{args.split}': choose {', '.join(splits)}")
        rows = splits[args.split]
    if args.mask_column or args.box_column:
        names = ("mask_column", "box_column", "box_format", "target_value")
        masks = {name: getattr(args, name) for name in names}
        return add_provenance(rows, **masks, image_column=args.image_column, label_column=args.label_column)
    if args.synthesis in ("composite", "exchange") and PROVENANCE not in rows.column_names:
        raise ValueError(f"--synthesis {args.synthesis} needs to know the object: give --mask_column or --box_column")
    return rows


def _method(args: argparse.Namespace, rows: Dataset) -> Any:
    """The synthesis method, as the recipes set it up."""
    from hf_pgg.data.loading import open_dataset
    from hf_pgg.demo_data import OTHER_PHOTOGRAPHS, photographs
    from hf_pgg.synthesis.by_name import synthesis_by_name

    backgrounds, flip = None, 0.5
    if args.backgrounds is not None:
        backgrounds = open_dataset(args.backgrounds)
    if args.dataset is None:
        flip = 0.0  # a mirrored digit is no digit
        if backgrounds is None:
            backgrounds = photographs(OTHER_PHOTOGRAPHS)
    columns = {"image_column": args.image_column, "label_column": args.label_column}
    return synthesis_by_name(args.synthesis, rows, backgrounds, flip=flip, seed=args.seed, **columns)


def _synthesized(method: Any, rows: Dataset, count: int) -> Dataset:
    """Evenly spaced rows after the method: the very samples that `method.map(rows)` holds at their places."""
    import numpy as np

    indices = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    chosen = rows.select(indices)
    if method is None:
        return chosen
    numbered = replace(method, row_id_column=_ROW_ID)
    return numbered.map(chosen.add_column(_ROW_ID, indices)).remove_columns(_ROW_ID)
