"""`evaluate` module over `hf_pgg.metrics.BoxAccuracy`: `evaluate.load(module_path("box_localization"))`."""

from collections.abc import Sequence
from typing import Any

import evaluate
from datasets import List

from hf_pgg.metrics.localization import BoxAccuracy, threshold_grid
from hf_pgg.metrics.modules.shared import CHOE_2020, INTEGERS, NUMBERS, module_info


class BoxLocalization(evaluate.Metric):
    """MaxBoxAcc, MaxBoxAccV2, GT-known and top-1 localization; the card beside this file says how to use them.

    Example:
        >>> score_map = [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
        >>> rows = {"predictions": [score_map], "boxes": [[[10, 5, 20, 10]]], "sizes": [[40, 20]]}
        >>> BoxLocalization().compute(**rows)["max_box_acc"]
        1.0
    """

    def _info(self) -> evaluate.MetricInfo:
        maps = boxes = List(NUMBERS)
        return module_info("box_localization", CHOE_2020, predictions=maps, boxes=boxes, sizes=INTEGERS)

    def _compute(
        self,
        predictions: list[list[list[float]]],
        boxes: list[list[list[float]]],
        sizes: list[list[int]],
        correct: Sequence[bool] | None = None,
        box_format: str = "xywh",
        delta: float = 0.01,
        iou: Sequence[float] = (0.3, 0.5, 0.7),
        threshold: Any = None,
    ) -> dict[str, float]:
        metric = BoxAccuracy(threshold_grid(delta), iou)
        judged = [None] * len(predictions) if correct is None else correct
        for score_map, of_image, size, right in zip(predictions, boxes, sizes, judged, strict=True):
            metric.update(score_map, of_image, size, box_format, right)
        return metric.result(threshold)
