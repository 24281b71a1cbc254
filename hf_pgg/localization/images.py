"""From attribution maps to boxes: predicting them for any image, and measuring them on annotated ones.

    hf-pgg localize MODEL IMAGES... --output boxes.json --overlays overlays/

writes one box an image for the class that the checkpoint predicts, as COCO detections.

Images are squashed to the model's input, without a crop: a box may lie anywhere in the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset
from torch import nn

from hf_pgg.data.annotations import _boxed, annotation, object_mask
from hf_pgg.data.images import open_image, to_rgb
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.localization.attribution import Method
from hf_pgg.localization.score_maps import score_maps
from hf_pgg.metrics.boxes import boxes_at_thresholds, normalize_map
from hf_pgg.metrics.localization import BoxAccuracy, PixelAveragePrecision, threshold_grid


def box_of_map(score_map: np.ndarray, threshold: float, original_size: tuple[int, int]) -> list[float]:
    """The box `[x, y, width, height]` around the largest part of a map above `threshold` of its range, in pixels.

    The same box as the evaluation's ([`hf_pgg.metrics.boxes`]), carried to an image of `original_size` (width, height);
    the whole image for a map that is constant.

    Args:
        score_map: (H, W), of any scale.
        threshold (`float`): In [0, 1], of the map normalised to its minimum and maximum.
    """
    return boxes_of_map(score_map, [threshold], original_size)[0].tolist()


def boxes_of_map(score_map: np.ndarray, thresholds: Sequence[float], original_size: tuple[int, int]) -> np.ndarray:
    """(thresholds, 4) float64, see [`box_of_map`]; for six thresholds four times as fast as one by one."""
    normalized = normalize_map(score_map)
    width, height = original_size
    if not normalized.any():
        return np.tile([0.0, 0.0, width, height], (len(thresholds), 1))
    found = boxes_at_thresholds(normalized, thresholds)
    boxes = found.largest[found.level_at].astype(np.float64)
    # at the right and lower edge the evaluator's corner is the last pixel, elsewhere the one after the box
    boxes[:, 2:] += boxes[:, 2:] == np.array(normalized.shape[::-1]) - 1
    boxes[:, 2:] -= boxes[:, :2]
    return boxes * np.tile(np.divide((width, height), normalized.shape[::-1]), 2)


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
        dataset (`Dataset`): Rows with an image, a label and a box or several; rows whose box is None are passed over.
        box_format (`str`): `"xywh"` or `"xyxy"`, in pixels of the row's image.
        mask_column (`str`, *optional*): Mask of the object, for PxAP; `target_value` is the object's value in a label
            map, `ignore_value` marks pixels that do not count.
        threshold (`float` or results of another split, *optional*): Chosen on other data: also reports the accuracy at
            it, see [`BoxAccuracy.result`].
        delta (`float`, *optional*, defaults to 0.01): Step of the thresholds that are tried.

    Returns:
        Fractions in [0, 1]: what [`BoxAccuracy`] returns, and `pixel_average_precision`.

    Raises:
        ValueError: If no row has a box, or a box or mask does not fit its image; the message names the row.
    """
    for column in filter(None, (image_column, label_column, box_column, mask_column)):
        if column not in dataset.column_names:
            raise ValueError(f"column '{column}' is not in the dataset; its columns are {dataset.column_names}")
    known = _boxed(dataset[box_column])
    if not known:
        raise ValueError(f"no row has a box in column '{box_column}': localization cannot be measured")
    rows = dataset.select(known)
    accuracy, precision = BoxAccuracy(threshold_grid(delta)), PixelAveragePrecision()
    images = (to_rgb(row[image_column]) for row in rows)
    scored = score_maps(model, spec, images, method, rows[label_column], batch_size)
    for index, row, result in zip(known, rows, scored, strict=True):
        size = open_image(row[image_column]).size
        column = box_column
        try:
            accuracy.update(
                result.score_map,
                row[box_column],
                original_size=size,
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
