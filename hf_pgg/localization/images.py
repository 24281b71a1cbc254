"""Boxes on images: from attribution maps to boxes, and how well they fit annotated ones.

Maps are of the whole image, squashed to the model's input without a crop: a box may lie anywhere in it. The predicted
class is the one after the checkpoint's own preprocessing, see [`~hf_pgg.localization.score_maps.score_maps`].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from datasets import Dataset
from torch import nn

from hf_pgg.data.annotations import add_provenance, squashed_rows
from hf_pgg.data.boxes import check_box_column, indices_with_boxes, read_boxes
from hf_pgg.data.images import open_image, undecoded
from hf_pgg.data.loading import named_images
from hf_pgg.data.masks import MaskSettings, read_mask
from hf_pgg.data.orientation import warn_of_masks_turned_apart
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.localization.attribution import Method
from hf_pgg.localization.score_maps import score_maps
from hf_pgg.metrics.boxes import boxes_at_thresholds, normalize_map
from hf_pgg.metrics.localization import BoxAccuracy, PixelAveragePrecision, threshold_grid


def box_of_map(score_map: np.ndarray, threshold: float, original_size: tuple[int, int]) -> list[float]:
    """Returns the box `[x, y, width, height]` around the largest part of a map above a threshold, in pixels.

    The box is that of the evaluation ([`hf_pgg.metrics.boxes`]), carried over to the image. A constant map gives the
    whole image.

    Args:
        score_map (`np.ndarray`): The map (H, W), of any size and scale.
        threshold (`float`): Share in [0, 1] of the range between the map's minimum and maximum.
        original_size (`tuple[int, int]`): Width and height of the image in pixels.

    Example:
        >>> score_map = np.zeros((224, 224))
        >>> score_map[56:168, 112:] = 1
        >>> box_of_map(score_map, 0.5, (80, 160))
        [40.0, 40.0, 40.0, 80.0]
    """
    return boxes_of_map(score_map, [threshold], original_size)[0].tolist()


def boxes_of_map(score_map: np.ndarray, thresholds: Sequence[float], original_size: tuple[int, int]) -> np.ndarray:
    """Returns the box of [`box_of_map`] at each threshold, (thresholds, 4) float64, in one pass over the map.

    Example:
        >>> boxes_of_map(np.tri(224), [0.5], (100, 50))
        array([[  0.,   0., 100.,  50.]])
    """
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


@dataclass(frozen=True)
class LocalizationSettings:
    """What [`evaluate_localization`] reads from a dataset, and how it measures.

    Args:
        box_column (`str`): Column of the object's box, or of several; rows whose box is None or [] are passed over.
        box_format (`str`, *optional*): What the numbers of a box are, see [`~hf_pgg.data.boxes.read_boxes`].
        mask_column (`str`, *optional*): Column of the object's mask, which adds PxAP to the results.
        target_value, ignore_value, channel (*optional*): What the masks' numbers mean, where they do not say it: see
            [`~hf_pgg.data.masks.MaskSettings`]. Pixels of `ignore_value` do not count.
        threshold (`float` or results of another split, *optional*): A threshold that other data chose. The results
            then also hold the accuracy at it, see [`BoxAccuracy.result`].
        delta (`float`): Step between the thresholds that are tried.

    Example:
        >>> LocalizationSettings(box_column="boxes", box_format="xyxy").delta
        0.01
    """

    image_column: str = "image"
    label_column: str = "label"
    box_column: str = "bbox"
    box_format: str | None = None
    mask_column: str | None = None
    target_value: float | None = None
    ignore_value: float | None = None
    channel: str | None = None
    threshold: float | Mapping[str, float] | None = None
    delta: float = 0.01
    batch_size: int = 32

    @property
    def mask_settings(self) -> MaskSettings:
        return MaskSettings(self.target_value, self.ignore_value, self.channel)


def evaluate_localization(
    model: nn.Module, spec: InputSpec, dataset: Dataset, method: Method, settings: LocalizationSettings | None = None
) -> dict[str, float]:
    """Measures how well the maps of the *true* class find the object (GT-known, as is usual in the field).

    Model, spec and method are as in [`score_maps`].

    Returns:
        Fractions in [0, 1]: what [`BoxAccuracy`] returns (MaxBoxAcc, MaxBoxAccV2, top-1 localization), and
        `pixel_average_precision` if there is a mask column.

    Raises:
        ValueError: If a column is missing, no row has a box, or a box or mask does not fit its image; the message
            names the row.

    Example:
        >>> from hf_pgg.localization.attribution import center_gaussian
        >>> settings = LocalizationSettings(box_format="xywh")
        >>> evaluate_localization(model, spec, boxed_rows, center_gaussian, settings)["max_box_acc_v2_50"]
        1.0
    """
    settings = settings or LocalizationSettings()
    known = _rows_to_measure(dataset, settings)
    rows = undecoded(dataset.select(known))
    accuracy, precision = BoxAccuracy(threshold_grid(settings.delta)), PixelAveragePrecision()
    images = named_images(rows, settings.image_column, known)
    scored = score_maps(model, spec, images, method, rows[settings.label_column], settings.batch_size)
    for index, row, result in zip(known, rows, scored, strict=True):
        size = open_image(row[settings.image_column]).size
        column = settings.box_column
        try:
            right = result.predicted == result.target
            boxes = np.asarray(read_boxes(row[column], size, settings.box_format))
            accuracy.update(result.score_map, boxes, size, "xyxy", right)
            column = str(settings.mask_column)
            if settings.mask_column is not None and row[column] is not None:
                mask = read_mask(row[column], size, settings.mask_settings)
                # a map that is not finite finds nothing: flat, as BoxAccuracy counts it
                score_map = result.score_map if np.isfinite(result.score_map).all() else 0 * mask.target
                precision.update(score_map, mask.target > 0.5, mask.ignored)
        except ValueError as error:
            raise ValueError(f"row {index}, column '{column}': {error}") from error
    results = accuracy.result()
    if settings.threshold is not None:
        results = {**accuracy.result(settings.threshold), **results}
    if settings.mask_column is not None:
        results["pixel_average_precision"] = precision.result()["pixel_average_precision"]
    return results


def annotated_rows(dataset: Dataset, size: tuple[int, int], settings: LocalizationSettings) -> Dataset:
    """Returns the rows that have a box and a mask, at the model's input size, with the mask as provenance.

    A trainer measures the target gradient share on them. A label map's uncertain border counts as outside. Settings
    that name no mask column are a ValueError.

    Example:
        >>> boxed = rows.add_column("bbox", [[4, 4, 8, 8]] * 4)
        >>> small = annotated_rows(boxed, (8, 8), LocalizationSettings(mask_column="mask"))
        >>> small[0]["image"].size
        (8, 8)
    """
    image, label, mask = settings.image_column, settings.label_column, settings.mask_column
    if mask is None:
        raise ValueError("there is no mask column: give settings.mask_column")
    rows = undecoded(dataset.select(indices_with_boxes(dataset, settings.box_column)))
    rows = rows.filter(lambda value: value is not None, input_columns=[mask]).select_columns([image, label, mask])
    known = asdict(settings.mask_settings)
    return squashed_rows(
        add_provenance(rows, mask_column=mask, image_column=image, label_column=label, **known), size, image
    )


def _rows_to_measure(dataset: Dataset, settings: LocalizationSettings) -> list[int]:
    """The indices of the rows that have a box, once every column is there."""
    columns = (settings.image_column, settings.label_column, settings.box_column, settings.mask_column)
    for column in filter(None, columns):
        if column not in dataset.column_names:
            raise ValueError(f"column '{column}' is not in the dataset; its columns are {dataset.column_names}")
    known = check_box_column(dataset, settings.box_column, settings.box_format, settings.image_column)
    if settings.mask_column is not None:
        warn_of_masks_turned_apart(dataset, settings.image_column, settings.mask_column)
    if not known:
        raise ValueError(f"no row has a box in column '{settings.box_column}': give a split that is annotated")
    return known
