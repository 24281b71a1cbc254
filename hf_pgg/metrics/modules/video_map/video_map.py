"""`evaluate` module over `hf_pgg.metrics.VideoMAP`; a row is a clip."""

from typing import Any

import evaluate
from datasets import List, Value

from hf_pgg.metrics.actions import VideoMAP
from hf_pgg.metrics.modules.shared import KALOGEITON_2017, TUBE, module_info
from hf_pgg.metrics.tubes import Tube


class VideoMeanAveragePrecision(evaluate.Metric):
    """Video-mAP; the card beside this file says how to use it.

    Example:
        >>> tube = {"frames": [0], "boxes": [[0, 0, 9, 9]], "label": 0}
        >>> rows = {"clips": ["a"], "predictions": [[{**tube, "score": 0.9}]], "references": [[tube]]}
        >>> VideoMeanAveragePrecision().compute(**rows, num_classes=1)["video_mAP@0.5"]
        100.0
    """

    def _info(self) -> evaluate.MetricInfo:
        columns = {"predictions": List({**TUBE, "score": Value("float64")}), "references": List(TUBE)}
        return module_info("video_map", KALOGEITON_2017, clips=Value("string"), **columns)

    def _compute(
        self, clips: list[str], predictions: list[Any], references: list[Any], num_classes: int, **options: Any
    ) -> dict[str, float]:
        metric = VideoMAP(num_classes, **options)
        for clip, found, real in zip(clips, predictions, references, strict=True):
            truth = [Tube(**tube, score=1.0, clip=clip) for tube in real]
            metric.update(clip, truth, [Tube(**tube, clip=clip) for tube in found])
        return metric.compute()
