"""From attribution maps to boxes: predicting them for any picture, and measuring them on annotated ones.

    python -m hf_pgg.localization MODEL IMAGES... --output boxes.json --overlays overlays/

writes one box a picture for the class that the checkpoint predicts, as COCO detections.

Pictures are squashed to the model's input, without a crop: a box may lie anywhere in the picture.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image as PILImage
from PIL import ImageDraw
from torch import nn
from tqdm.auto import tqdm

from hf_pgg.attribution import METHODS, Method, blurred_over_time
from hf_pgg.classifiers import CheckpointError, load_classifier
from hf_pgg.collator import InputSpec
from hf_pgg.guidance import evaluation_mode
from hf_pgg.metrics.boxes import boxes_at_thresholds, normalize_map
from hf_pgg.metrics.localization import BoxAccuracy, PixelAveragePrecision, threshold_grid
from hf_pgg.pictures import open_picture, to_rgb
from hf_pgg.visualization import heat_overlay

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class ScoredPicture:
    """A picture's map (H, W) float32 of the model's input size, the class it is of, and what the model predicts.

    Of a clip the map is (T, H, W). probabilities: (classes,) float32.
    """

    score_map: np.ndarray
    target: int
    predicted: int
    probabilities: np.ndarray

    @property
    def probability(self) -> float:
        """Of the predicted class."""
        return float(self.probabilities[self.predicted])


def score_maps(
    model: nn.Module,
    spec: InputSpec,
    pictures: Iterable[np.ndarray],
    method: Method,
    targets: Sequence[int] | None = None,
    batch_size: int = 32,
) -> Iterator[ScoredPicture]:
    """One map a picture, in order.

    Args:
        model (`nn.Module`): A classifier; its device is used.
        spec ([`InputSpec`]): Its input, `InputSpec.from_processor(image_processor)`.
        pictures: (H, W, 3) uint8 each, of any sizes; or clips (T, H, W, 3), of one T.
        method: One of [`hf_pgg.attribution.METHODS`], or any function of its signature.
        targets (*optional*): The class to explain of each picture; by default the predicted one.
        batch_size (`int`): Pictures a forward pass.
    """
    device = next(model.parameters()).device
    batch: list[torch.Tensor] = []
    done = 0

    def flush() -> Iterator[ScoredPicture]:
        nonlocal done
        pixels = spec.normalize(torch.stack(batch)).to(device)
        with evaluation_mode(model), torch.no_grad():
            probabilities = model(pixel_values=pixels).logits.float().softmax(1)
        predicted = probabilities.argmax(1).tolist()
        chosen = predicted if targets is None else [int(t) for t in targets[done : done + len(batch)]]
        maps = method(model, pixels, torch.tensor(chosen, device=device)).cpu().numpy()
        for fields in zip(maps, chosen, predicted, probabilities.cpu().numpy(), strict=True):
            yield ScoredPicture(*fields)
        done += len(batch)
        batch.clear()

    for picture in pictures:
        batch.append(spec.squash(torch.from_numpy(picture).movedim(-1, -3)))
        if len(batch) == batch_size:
            yield from flush()
    if batch:
        yield from flush()


def box_of_map(score_map: np.ndarray, threshold: float, picture_size: tuple[int, int]) -> list[float]:
    """The box `[x, y, width, height]` around the largest part of a map above `threshold` of its range, in pixels.

    The same box as the evaluation's ([`hf_pgg.metrics.boxes`]), carried to a picture of `picture_size` (width, height);
    the whole picture for a map that is constant.

    Args:
        score_map: (H, W), of any scale.
        threshold (`float`): In [0, 1], of the map normalised to its minimum and maximum.
    """
    return boxes_of_map(score_map, [threshold], picture_size)[0].tolist()


def boxes_of_map(score_map: np.ndarray, thresholds: Sequence[float], picture_size: tuple[int, int]) -> np.ndarray:
    """(thresholds, 4) float64, see [`box_of_map`]; for six thresholds four times as fast as one by one."""
    normalized = normalize_map(score_map)
    width, height = picture_size
    if not normalized.any():
        return np.tile([0.0, 0.0, width, height], (len(thresholds), 1))
    found = boxes_at_thresholds(normalized, thresholds)
    boxes = found.largest[found.level_at].astype(np.float64)
    # at the right and lower edge the evaluator's corner is the last pixel, elsewhere the one after the box
    boxes[:, 2:] += boxes[:, 2:] == np.array(normalized.shape[::-1]) - 1
    boxes[:, 2:] -= boxes[:, :2]
    return boxes * np.tile(np.divide((width, height), normalized.shape[::-1]), 2)


def rows_with_boxes(dataset: Dataset, box_column: str) -> Dataset:
    """The rows whose boxes are neither None nor an empty list."""
    return dataset.select(_boxed(dataset[box_column]))


def _boxed(boxes: Iterable[Any]) -> list[int]:
    return [i for i, box in enumerate(boxes) if box is not None and np.size(box)]


def evaluate_localization(
    model: nn.Module,
    spec: InputSpec,
    dataset: Dataset,
    method: Method,
    *,
    image_column: str = "image",
    label_column: str = "label",
    box_column: str = "bbox",
    box_format: str = "xywh",
    mask_column: str | None = None,
    target_value: int | None = None,
    ignore_value: int | None = None,
    threshold: float | Mapping[str, float] | None = None,
    delta: float = 0.01,
    batch_size: int = 32,
) -> dict[str, float]:
    """MaxBoxAcc, MaxBoxAccV2, PxAP and top-1 localization of the maps of the *true* class (GT-known, as in the field).

    Args:
        dataset (`Dataset`): Rows with a picture, a label and a box or several; rows whose box is None are passed over.
        box_format (`str`): `"xywh"` or `"xyxy"`, in pixels of the row's picture.
        mask_column (`str`, *optional*): Mask of the object, for PxAP; `target_value` is the object's value in a label
            map, `ignore_value` marks pixels that do not count.
        threshold (`float` or results of another split, *optional*): Chosen on other data: also reports the accuracy at
            it, see [`BoxAccuracy.result`].
        delta (`float`, *optional*, defaults to 0.01): Step of the thresholds that are tried.

    Returns:
        Fractions in [0, 1]: what [`BoxAccuracy`] returns, and `pixel_average_precision`.

    Raises:
        ValueError: If no row has a box, or a box or mask does not fit its picture; the message names the row.
    """
    for column in filter(None, (image_column, label_column, box_column, mask_column)):
        if column not in dataset.column_names:
            raise ValueError(f"column '{column}' is not in the dataset; its columns are {dataset.column_names}")
    known = _boxed(dataset[box_column])
    if not known:
        raise ValueError(f"no row has a box in column '{box_column}': localization cannot be measured")
    rows = dataset.select(known)
    accuracy, precision = BoxAccuracy(threshold_grid(delta)), PixelAveragePrecision()
    pictures = (to_rgb(row[image_column]) for row in rows)
    scored = score_maps(model, spec, pictures, method, rows[label_column], batch_size)
    for index, row, result in zip(known, rows, scored, strict=True):
        size = open_picture(row[image_column]).size
        column = box_column
        try:
            accuracy.update(
                result.score_map,
                row[box_column],
                picture_size=size,
                box_format=box_format,
                correct=result.predicted == result.target,
            )
            column = str(mask_column)
            if mask_column is not None and row[mask_column] is not None:
                values = annotation(row[mask_column], size)
                ignored = None if ignore_value is None else values == ignore_value
                # a map that is not finite finds nothing: flat, as BoxAccuracy counts it
                score_map = result.score_map if np.isfinite(result.score_map).all() else 0 * values
                precision.update(score_map, object_mask(values, target_value), ignored)
        except ValueError as error:
            raise ValueError(f"row {index}, column '{column}': {error}") from error
    results = accuracy.result()
    if threshold is not None:
        results = {**accuracy.result(threshold), **results}
    if mask_column is not None:
        results["pixel_average_precision"] = precision.result()["pixel_average_precision"]
    return results


def annotation(value: Any, picture_size: tuple[int, int]) -> np.ndarray:
    """A mask or label map (H, W) as it is stored, of a picture of `picture_size` (width, height).

    Raises:
        ValueError: If it is of another size.
    """
    mask = open_picture(value)
    if mask.size != picture_size:
        raise ValueError(
            f"a mask of {mask.size[0]}x{mask.size[1]} for a picture of {picture_size[0]}x{picture_size[1]}"
        )
    return np.array(mask.convert("L") if mask.mode in ("RGB", "RGBA", "LA") else mask)


def object_mask(values: np.ndarray, target_value: int | None = None) -> np.ndarray:
    """The object's pixels of an annotation (H, W): `target_value` of a label map, or the upper half of a mask."""
    return values == target_value if target_value is not None else values > values.max() / 2


# ---------------------------------------------------------------------------------------------- command line


def picture_files(paths: Sequence[str]) -> list[Path]:
    """The picture files named, and those in the folders named, sorted within each folder.

    Raises:
        ValueError: If a path does not exist, or there is no picture.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES) if path.is_dir() else [path]
        files += inside
    if not files:
        raise ValueError(f"no pictures ({', '.join(PICTURES)}) in {', '.join(paths)}")
    return files


def to_coco(
    files: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    boxes: Sequence[Sequence[float]],
    scored: Sequence[ScoredPicture],
    id2label: Mapping[int, str],
) -> dict[str, Any]:
    """A COCO data set: `images`, `annotations` with `bbox` [x, y, width, height] and `score`, and `categories`."""
    return {
        "images": [
            {"id": i, "file_name": str(file), "width": size[0], "height": size[1]}
            for i, (file, size) in enumerate(zip(files, sizes, strict=True))
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": result.target,
                "bbox": [round(value, 2) for value in box],
                "area": round(box[2] * box[3], 2),
                "iscrowd": 0,
                "score": round(float(result.probabilities[result.target]), 6),
            }
            for i, (box, result) in enumerate(zip(boxes, scored, strict=True))
        ],
        "categories": [{"id": int(i), "name": name} for i, name in sorted(id2label.items())],
    }


def main(arguments: Sequence[str] | None = None, prog: str = "python -m hf_pgg.localization") -> None:
    """Writes boxes, and overlays, for a checkpoint and pictures; see the module's head."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Boxes around what a classifier looks at, as COCO JSON, for pictures without annotations.",
        epilog=f"example:\n  {prog} facebook/deit-tiny-patch16-224 photos/ --output boxes.json --overlays boxes/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="Hub id or local folder of an image classification checkpoint")
    parser.add_argument("images", nargs="+", help="pictures, or folders of them")
    parser.add_argument("--output", default="boxes.json", help="COCO file to write (%(default)s)")
    parser.add_argument("--overlays", help="folder for pictures with map and box drawn in")
    parser.add_argument("--method", default="grad_cam", choices=list(METHODS), help="attribution map (%(default)s)")
    parser.add_argument(
        "--smoothing", type=float, default=0.05, help="of gradient maps, share of the side (%(default)s)"
    )
    parser.add_argument("--threshold", type=float, default=0.3, help="share of the map's range (%(default)s)")
    parser.add_argument("--image_size", type=int, help="input size in pixels, other than the checkpoint's")
    parser.add_argument("--batch_size", type=int, default=16, help="pictures a forward pass (%(default)s)")
    parser.add_argument("--revision", default="main", help="revision of the checkpoint on the Hub (%(default)s)")
    args = parser.parse_args(arguments)
    if not 0 <= args.threshold < 1:
        parser.error(f"--threshold {args.threshold} is not in [0, 1)")
    try:
        files = picture_files(args.images)
    except ValueError as error:
        parser.error(str(error))

    try:
        classifier = load_classifier(args.model, args.revision, args.image_size)
    except CheckpointError as error:
        parser.error(str(error))
    model, spec = classifier.model, classifier.spec
    device = "cuda" if torch.cuda.is_available() else "cpu"
    method = with_smoothing(args.method, args.smoothing)
    readable, pictures = _read(files)
    scored = score_maps(model.to(device), spec, pictures, method, batch_size=args.batch_size)
    results, sizes, boxes = [], [], []
    for number, result in enumerate(tqdm(scored, total=len(readable), unit="picture")):
        file = readable[number]
        picture = to_rgb(str(file))
        sizes.append((picture.shape[1], picture.shape[0]))
        boxes.append(box_of_map(result.score_map, args.threshold, sizes[-1]))
        results.append(result)
        if args.overlays:
            title = f"{classifier.labels[result.target]} {result.probability:.2f}"
            Path(args.overlays).mkdir(parents=True, exist_ok=True)
            overlay = draw(picture, result.score_map, boxes[-1], title)
            overlay.save(Path(args.overlays) / f"{number:05d}_{file.stem}.png")  # names repeat between folders
    coco = to_coco(readable, sizes, boxes, results, classifier.labels)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(coco, indent=1) + "\n")
    print(f"{len(boxes)} boxes written to {args.output}" + (f", overlays to {args.overlays}" if args.overlays else ""))
    if len(readable) < len(files):
        raise SystemExit(f"{len(files) - len(readable)} of {len(files)} pictures could not be read")


SMOOTHED = ("input_gradient", "smooth_gradient", "guided_grad_cam")


def with_smoothing(name: str, smoothing: float, over_time: float = 0.0) -> Method:
    """A method by name; those that follow the input gradient are blurred by `smoothing`.

    Args:
        over_time (`float`, *optional*, defaults to 0.0): Of clips' maps, whatever the method: see
            [`~hf_pgg.attribution.blurred_over_time`].
    """
    method: Any = METHODS[name]
    if name in SMOOTHED:
        method = partial(method, smoothing=smoothing)
    if over_time <= 0:
        return method
    return lambda model, pixel_values, target: blurred_over_time(method(model, pixel_values, target), over_time)


def _read(files: Sequence[Path]) -> tuple[list[Path], Iterator[np.ndarray]]:
    """The files that can be decoded, and their pictures one by one; each of the others is named."""
    readable = []
    for file in files:
        try:
            open_picture(str(file))
            readable.append(file)
        except (ValueError, OSError) as error:
            print(f"{file}: not read, {error}")
    return readable, (to_rgb(str(file)) for file in readable)


def draw(
    picture: np.ndarray,
    score_map: np.ndarray,
    box: Sequence[float],
    title: str = "",
    truth: Sequence[Sequence[float]] = (),
) -> PILImage.Image:
    """The picture (H, W, 3) uint8 under its map, with its box (green) and the true ones (red), `[x, y, w, h]`."""
    canvas = PILImage.fromarray(heat_overlay(picture, score_map))
    pen = ImageDraw.Draw(canvas)
    width = max(round(min(canvas.size) / 80), 1)
    for colour, (x, y, w, h) in [*(("red", true) for true in truth), ("lime", box)]:
        pen.rectangle((x, y, max(x + w - 1, x), max(y + h - 1, y)), outline=colour, width=width)
    if title:
        pen.text((3, 2), title, fill="white", stroke_width=1, stroke_fill="black")
    return canvas


if __name__ == "__main__":
    main()
