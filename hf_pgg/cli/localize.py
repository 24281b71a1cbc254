"""`hf-pgg localize`: boxes around what a classifier looks at, as COCO JSON, for images without annotations."""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_pgg.cli.choices import MAPS, add_annotation_options

if TYPE_CHECKING:
    import numpy as np

    from hf_pgg.localization.score_maps import ScoredImage

HELP = "write boxes around what a checkpoint looks at, as COCO JSON"
DESCRIPTION = "Boxes around what a classifier looks at, as COCO JSON, for images without annotations."
EXAMPLES = """example:
  hf-pgg localize facebook/deit-tiny-patch16-224 photos/ --output boxes.json --overlays boxes/
  hf-pgg localize out/guided photos/ --annotations instances.json
      says, too, how many boxes meet an annotated one (IoU of 0.5 or more)"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `hf-pgg localize`.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_options(parser)
        >>> parser.parse_args(["out/guided", "photos/"]).threshold
        0.3
    """
    parser.add_argument("model", help="Hub id or local folder of an image classification checkpoint")
    parser.add_argument("images", nargs="+", help="images, or folders of them")
    parser.add_argument("--output", default="boxes.json", help="COCO file to write (%(default)s)")
    parser.add_argument("--overlays", help="folder for images with map and box drawn in")
    parser.add_argument("--method", default="input_gradient", choices=MAPS, help="attribution map (%(default)s)")
    parser.add_argument(
        "--smoothing", type=float, default=0.05, help="blur of gradient maps, as a share of the side (%(default)s)"
    )
    parser.add_argument("--threshold", type=float, default=0.3, help="share of the map's range (%(default)s)")
    parser.add_argument("--image_size", type=int, help="input size in pixels, other than the checkpoint's")
    parser.add_argument("--white", type=float, help="value that is white in images of 16 bits or floats, such as 4095")
    add_annotation_options(parser)
    parser.add_argument("--batch_size", type=int, default=16, help="images a forward pass (%(default)s)")
    parser.add_argument("--revision", default="main", help="revision of the checkpoint on the Hub (%(default)s)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    if not 0 <= args.threshold < 1:
        raise ValueError(f"--threshold {args.threshold} is not in [0, 1): give a share of the map's range")
    import torch
    from tqdm.auto import tqdm

    from hf_pgg.data.images import image_files
    from hf_pgg.localization.classifier import load_classifier
    from hf_pgg.localization.images import box_of_map
    from hf_pgg.localization.score_maps import score_maps, with_smoothing
    from hf_pgg.reports.figures import draw

    files, truth = image_files(args.images), _annotated_boxes(args)
    classifier = load_classifier(args.model, args.revision, args.image_size)
    model = classifier.model.to("cuda" if torch.cuda.is_available() else "cpu")
    read: deque[tuple[Path, np.ndarray]] = deque()
    images = _readable(tqdm(files, unit="image"), args.white, read)
    method = with_smoothing(args.method, args.smoothing)
    done: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    met: list[bool] = []  # an annotated box
    for number, result in enumerate(score_maps(model, classifier.spec, images, method, batch_size=args.batch_size)):
        file, image = read.popleft()
        height, width = image.shape[:2]
        box = box_of_map(result.score_map, args.threshold, (width, height))
        done.append({"id": number, "file_name": str(file), "width": width, "height": height})
        boxes.append(_annotation(number, box, result))
        if args.overlays:
            title = f"{classifier.labels[result.target]} {result.probability:.2f}"
            Path(args.overlays).mkdir(parents=True, exist_ok=True)
            # numbered, as names repeat between folders; as much of the name as a file system takes (255 bytes)
            name = f"{number:05d}_{file.stem.encode(errors='replace')[:240].decode(errors='ignore')}.png"
            drawn = draw(image, result.score_map, box, title, truth.get(file.resolve(), ()))
            drawn.save(Path(args.overlays) / name)
        if file.resolve() in truth:
            met.append(_meets(box, truth[file.resolve()]))
    categories = [{"id": int(i), "name": name} for i, name in sorted(classifier.labels.items())]
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    coco = {"images": done, "annotations": boxes, "categories": categories}
    Path(args.output).write_text(json.dumps(coco, indent=1) + "\n")
    print(f"{len(boxes)} boxes written to {args.output}" + (f", overlays to {args.overlays}" if args.overlays else ""))
    if truth:
        print(f"{sum(met)} boxes of {len(met)} annotated images meet an annotated one (IoU of 0.5 or more)")
    if len(done) < len(files):
        raise SystemExit(f"{len(files) - len(done)} of {len(files)} images could not be read")


def _annotated_boxes(args: argparse.Namespace) -> dict[Path, list[list[float]]]:
    """Boxes `[x, y, width, height]` of the annotated images, by file."""
    if args.annotations is None:
        return {}
    from hf_pgg.data.formats import read_annotated
    from hf_pgg.data.images import undecoded

    if len(args.images) > 1 or not Path(args.images[0]).is_dir():
        raise ValueError(f"--annotations {args.annotations} are of one folder of images: give that in place of others")
    rows = read_annotated(args.annotations, args.images[0], args.annotation_format, args.class_names or None)
    return {Path(row["image"]["path"]).resolve(): row["bbox"] for row in undecoded(rows)}


def _meets(box: Sequence[float], truth: Sequence[Sequence[float]]) -> bool:
    from hf_pgg.data.boxes import corners
    from hf_pgg.metrics.boxes import pairwise_iou

    return bool(pairwise_iou(corners([box]), corners(truth)).max() >= 0.5)


def _readable(files: Iterable[Path], white: float | None, read: deque[tuple[Path, np.ndarray]]) -> Iterator[np.ndarray]:
    """Yields the images that can be read, and adds each with its file to `read`; each of the other files is named."""
    from hf_pgg.data.images import to_rgb

    for file in files:
        try:
            image = to_rgb(str(file), white)
        except ValueError as error:
            print(f"{file}: not read, {error}")
            continue
        read.append((file, image))
        yield image


def _annotation(number: int, box: Sequence[float], result: ScoredImage) -> dict[str, Any]:
    """An annotation of COCO, with `bbox` [x, y, width, height] and `score`."""
    return {
        "id": number,
        "image_id": number,
        "category_id": result.target,
        "bbox": [round(value, 2) for value in box],
        "area": round(box[2] * box[3], 2),
        "iscrowd": 0,
        "score": round(float(result.probabilities[result.target]), 6),
    }
