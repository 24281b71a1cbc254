"""What the commands let a user choose from, known to `--help` without importing the library.

A test holds these lists equal to the library's own.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_pgg.data.loading import Annotations

MAPS = ("cam", "grad_cam", "guided_grad_cam", "input_gradient", "smooth_gradient", "attention_rollout")
SYNTHESES = ("composite", "exchange", "cutmix", "resizemix", "none")
MOST_IMAGES = 24  # on one sheet
FORMATS = ("coco", "yolo", "voc", "objects")


def add_annotation_options(parser: ArgumentParser) -> None:
    """Adds the options that name annotations beside a folder of images.

    Example:
        >>> parser = ArgumentParser()
        >>> add_annotation_options(parser)
        >>> parser.parse_args(["--annotations", "instances.json"]).annotation_format
        'coco'
    """
    parser.add_argument("--annotations", help="of the images in a folder: file or folder; or a column of objects")
    parser.add_argument("--annotation_format", default="coco", choices=FORMATS, help="their format (%(default)s)")
    parser.add_argument("--class_names", nargs="+", default=(), help="their classes, in order (YOLO, VOC)")


def annotations_of(args: Namespace) -> Annotations | None:
    """Returns what the options of [`add_annotation_options`] and `--box_format` say; None without `--annotations`.

    Example:
        >>> annotations_of(Namespace(annotations=None)) is None
        True
    """
    from hf_pgg.data.loading import Annotations  # a slow start: `--help` does without

    if args.annotations is None:
        return None
    return Annotations(args.annotations, args.annotation_format, args.class_names, args.box_format)
