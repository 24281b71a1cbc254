"""`evaluate` module over `hf_pgg.metrics.actions.FrameMAP`; a row is a clip."""

from typing import Any

import datasets
import evaluate

from hf_pgg.metrics.actions import FrameMAP
from hf_pgg.metrics.tubes import FrameDetections, Tube

_DESCRIPTION = "Frame-mAP of spatio-temporal action localization: each box of each frame for itself."

_KWARGS_DESCRIPTION = """
Args:
    clips (list of str): Name of each clip, given once.
    detections (list of dict): What was found in each clip: frames, boxes ([x1, y1, x2, y2] in pixels), scores, labels.
    references (list of list of dict): The ground-truth tubes of each clip: frames, boxes, label.
    num_classes (int): Labels are 0 to num_classes - 1.
    thresholds (list of float): IoUs from which a box is right; [0.5] by default.
    interpolation (str): "trapezoid" (ACT) by default, or "every-point" (VOC, YOWO).
    matching (str): "best-unmatched" (ACT) by default, or "best" (VOC, YOWO).
    pixel_convention (str): "inclusive" (ACT, YOWO) by default: a box is x2 - x1 + 1 wide; or "exclusive".
Returns:
    frame_mAP@{threshold} of each threshold, in percent.
"""

_CITATION = """
@inproceedings{kalogeiton2017action,
  title={Action Tubelet Detector for Spatio-Temporal Action Localization},
  author={Kalogeiton, Vicky and Weinzaepfel, Philippe and Ferrari, Vittorio and Schmid, Cordelia},
  booktitle={International Conference on Computer Vision},
  year={2017}
}
"""

_BOXES = datasets.List(datasets.List(datasets.Value("float64"), length=4))
_INTEGERS = datasets.List(datasets.Value("int64"))


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class FrameMeanAveragePrecision(evaluate.Metric):
    """Frame-mAP."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "clips": datasets.Value("string"),
                    "detections": {
                        "frames": _INTEGERS,
                        "boxes": _BOXES,
                        "scores": datasets.List(datasets.Value("float64")),
                        "labels": _INTEGERS,
                    },
                    "references": datasets.List(
                        {"frames": _INTEGERS, "boxes": _BOXES, "label": datasets.Value("int64")}
                    ),
                }
            ),
        )

    def _compute(
        self, clips: list[str], detections: list[dict], references: list[list[dict]], num_classes: int, **options: Any
    ) -> dict[str, float]:
        metric = FrameMAP(num_classes, **options)
        for clip, found, tubes in zip(clips, detections, references, strict=True):
            metric.update(
                clip, [Tube(**tube, score=1.0, clip=clip) for tube in tubes], FrameDetections(**found, clip=clip)
            )
        return metric.compute()
