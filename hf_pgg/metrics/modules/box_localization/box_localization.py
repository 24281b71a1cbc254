"""`evaluate` module over `hf_pgg.metrics.BoxAccuracy`: `evaluate.load(module_path("box_localization"))`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from hf_pgg.metrics.localization import BoxAccuracy, threshold_grid

_DESCRIPTION = (
    "Weakly supervised object localization by boxes: MaxBoxAcc, MaxBoxAccV2, GT-known and top-1 localization of score"
    " maps, as in the reference evaluator (fractions, not per cent)."
)

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of (H, W) float): Score maps of any size and scale, each over its whole image.
    boxes (list of (N, 4) float): Boxes of each image in pixels, at least one.
    sizes (list of (width, height)): Of each image, in pixels.
    correct (list of bool, optional): Whether the top-1 class is right, in the order of the maps.
    box_format (str): "xywh" (default) or "xyxy".
    delta (float): Step of the thresholds; 0.01 by default.
    iou (list of float): IoU of MaxBoxAccV2; 0.3, 0.5 and 0.7 by default.
    threshold (float or dict, optional): A fixed threshold, or the result of another split, whose best ones are taken.
Returns:
    max_box_acc, gt_known, max_box_acc_v2 (and _30, _50, _70), the best_threshold of each, top1_localization if
    `correct` is given, num_maps, num_flat_maps. With `threshold`, box_acc and threshold instead of max_box_acc and
    best_threshold.
"""

_CITATION = """
@inproceedings{choe2020evaluating,
  title={Evaluating Weakly Supervised Object Localization Methods Right},
  author={Choe, Junsuk and Oh, Seong Joon and Lee, Seungho and Chun, Sanghyuk and Akata, Zeynep and Shim, Hyunjung},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2020}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class BoxLocalization(evaluate.Metric):
    """MaxBoxAcc, MaxBoxAccV2, GT-known and top-1 localization."""

    def _info(self) -> evaluate.MetricInfo:
        matrix = datasets.List(datasets.List(datasets.Value("float64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": matrix, "boxes": matrix, "sizes": datasets.List(datasets.Value("int64"))}
            ),
        )

    def _compute(
        self,
        predictions: list[list[list[float]]],
        boxes: list[list[list[float]]],
        sizes: list[list[int]],
        correct: Sequence[bool] | None = None,
        box_format: str = "xywh",
        delta: float = 0.01,
        iou: Sequence[float] = (0.3, 0.5, 0.7),
        threshold: float | dict[str, float] | None = None,
    ) -> dict[str, float]:
        metric = BoxAccuracy(threshold_grid(delta), iou)
        judged = [None] * len(predictions) if correct is None else correct
        for score_map, of_image, size, right in zip(predictions, boxes, sizes, judged, strict=True):
            metric.update(score_map, of_image, size, box_format, right)
        return metric.result(threshold)
