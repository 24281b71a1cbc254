"""`hf-pgg audit`: how much the background decides what a checkpoint answers."""

from __future__ import annotations

import argparse

from hf_pgg.cli.choices import add_annotation_options, annotations_of

HELP = "measure how much the background decides what a checkpoint answers"
DESCRIPTION = "Exchange the backgrounds of a data set's images, and measure how many answers follow."
EXAMPLES = """examples:
  hf-pgg audit out/plain photos/ --mask_column mask
      the verdict, the table, and audit/audit.html with the rows that the background decides most
  hf-pgg audit out/guided photos/ --mask_column mask --against out/plain
      two checkpoints on the same rows, with the interval of their difference
  hf-pgg audit out/guided photos/ --mask_column mask --fail_above effect=0.5
      ends with exit code 1 if the background effect is above 0.5"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `hf-pgg audit`.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_options(parser)
        >>> parser.parse_args(["out/plain", "photos/", "--box_column", "bbox"]).draws
        4
    """
    parser.add_argument("model", help="Hub id or folder of an image classifier (safetensors)")
    parser.add_argument(
        "dataset", help="Hub id, folder or parquet file of images with one class and a mask or box each"
    )
    parser.add_argument("--against", help="a second checkpoint, on the same rows")
    parser.add_argument("--split", default="test", help="split of the data set (%(default)s)")
    parser.add_argument("--config_name", help="configuration of a data set that has several")
    parser.add_argument("--image_column", default="image", help="column of the images (%(default)s)")
    parser.add_argument("--label_column", default="label", help="column of the classes (%(default)s)")
    parser.add_argument("--mask_column", help="column of the objects' masks (default: the provenance)")
    parser.add_argument("--box_column", help="column of the objects' boxes, in place of masks")
    parser.add_argument("--box_format", help="what the numbers of a box are, such as xyxy")
    add_annotation_options(parser)
    parser.add_argument("--target_value", type=float, help="the object's value in masks of several values")
    parser.add_argument("--ignore_value", type=float, help="value of masks' pixels that are of neither")
    parser.add_argument("--channel", help="channel of the masks, where they have several")
    parser.add_argument("--group_column", help="column by whose values results are listed, too")
    parser.add_argument("--max_rows", type=int, default=1000, help="rows to draw where there are more (%(default)s)")
    parser.add_argument(
        "--fill", default="grey", choices=("grey", "blur", "surroundings"), help="behind an object alone"
    )
    parser.add_argument("--draws", type=int, default=4, help="random backgrounds a row (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="images a forward pass (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of rows, partners and intervals (%(default)s)")
    parser.add_argument("--revision", default="main", help="revision of the first checkpoint (%(default)s)")
    parser.add_argument("--image_size", type=int, help="input size in pixels, other than the checkpoints'")
    parser.add_argument("--output_dir", default="audit", help="folder for audit.json, .md and .html (%(default)s)")
    parser.add_argument("--fail_above", nargs="+", default=[], metavar="FIGURE=VALUE", help="exit code 1 above a value")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from dataclasses import fields

    import torch

    from hf_pgg.auditing.audit import AuditSettings, audit
    from hf_pgg.auditing.report import as_markdown, exceeded, write_report
    from hf_pgg.data.loading import open_dataset
    from hf_pgg.localization.classifier import load_classifier

    known = {"label_column": args.label_column, "annotations": annotations_of(args)}
    rows = open_dataset(args.dataset, args.split, args.config_name, **known)
    settings = AuditSettings(**{field.name: getattr(args, field.name) for field in fields(AuditSettings)})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [load_classifier(args.model, args.revision, args.image_size)]
    models += [load_classifier(args.against, image_size=args.image_size)] if args.against else []
    for each in models:
        each.model.to(device)
    found = [audit(each, rows, settings, progress=True) for each in models]
    failures = exceeded(found[0], args.fail_above)
    write_report(args.output_dir, *found)
    print(as_markdown(*found))
    print(f"written: {args.output_dir}/audit.html, audit.md and audit.json")
    if failures:
        print("; ".join(failures))
        raise SystemExit(1)
