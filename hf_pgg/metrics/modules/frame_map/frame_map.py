"""`evaluate` module over `hf_pgg.metrics.FrameMAP`; a row is a clip."""

from typing import Any

import evaluate
from datasets import List, Value

from hf_pgg.metrics.actions import FrameMAP
from hf_pgg.metrics.modules.shared import BOXES, INTEGERS, KALOGEITON_2017, NUMBERS, TUBE, module_info
from hf_pgg.metrics.tubes import FrameDetections, Tube


class FrameMeanAveragePrecision(evaluate.Metric):
    """Frame-mAP; the card beside this file says how to use it.

    Example:
        >>> found = {"frames": [0], "boxes": [[0, 0, 9, 9]], "scores": [0.9], "labels": [0]}
        >>> real = [{"frames": [0], "boxes": [[0, 0, 9, 9]], "label": 0}]
        >>> FrameMeanAveragePrecision().compute(clips=["a"], detections=[found], references=[real], num_classes=1)
        {'frame_mAP@0.5': 100.0}
    """

    def _info(self) -> evaluate.MetricInfo:
        found = {"frames": INTEGERS, "boxes": BOXES, "scores": NUMBERS, "labels": INTEGERS}
        columns = {"clips": Value("string"), "detections": found, "references": List(TUBE)}
        return module_info("frame_map", KALOGEITON_2017, **columns)

    def _compute(
        self, clips: list[str], detections: list[dict], references: list[list[dict]], num_classes: int, **options: Any
    ) -> dict[str, float]:
        metric = FrameMAP(num_classes, **options)
        for clip, found, tubes in zip(clips, detections, references, strict=True):
            truth = [Tube(**tube, score=1.0, clip=clip) for tube in tubes]
            metric.update(clip, truth, FrameDetections(**found, clip=clip))
        return metric.compute()
