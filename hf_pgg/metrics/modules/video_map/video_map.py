"""`evaluate` module over `hf_pgg.metrics.actions.VideoMAP`; a row is a clip."""

from typing import Any

import datasets
import evaluate

from hf_pgg.metrics.actions import VideoMAP
from hf_pgg.metrics.tubes import Tube

_DESCRIPTION = "Video-mAP of spatio-temporal action localization: whole tubes, after suppression within each class."

_KWARGS_DESCRIPTION = """
Args:
    clips (list of str): Name of each clip, given once.
    predictions (list of list of dict): The tubes found in each clip: frames, boxes ([x1, y1, x2, y2] in pixels), score,
        label.
    references (list of list of dict): The ground-truth tubes of each clip: frames, boxes, label.
    num_classes (int): Labels are 0 to num_classes - 1.
    thresholds (list of float): IoUs from which a tube is right; [0.2, 0.5, 0.75] by default.
    nms_threshold (float or None): 0.3 by default; None for no suppression.
    interpolation (str): "trapezoid" (ACT) by default, or "every-point" (VOC, YOWO).
    matching (str): "best-unmatched" (ACT, YOWO) by default, or "best" (VOC).
    pixel_convention (str): "inclusive" (ACT, YOWO) by default: a box is x2 - x1 + 1 wide; or "exclusive".
Returns:
    video_mAP@{threshold} of each threshold and video_mAP@0.5:0.95, in percent.
"""

_CITATION = """
@inproceedings{kalogeiton2017action,
  title={Action Tubelet Detector for Spatio-Temporal Action Localization},
  author={Kalogeiton, Vicky and Weinzaepfel, Philippe and Ferrari, Vittorio and Schmid, Cordelia},
  booktitle={International Conference on Computer Vision},
  year={2017}
}
"""

_TUBE = {
    "frames": datasets.List(datasets.Value("int64")),
    "boxes": datasets.List(datasets.List(datasets.Value("float64"), length=4)),
    "label": datasets.Value("int64"),
}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class VideoMeanAveragePrecision(evaluate.Metric):
    """Video-mAP."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "clips": datasets.Value("string"),
                    "predictions": datasets.List({**_TUBE, "score": datasets.Value("float64")}),
                    "references": datasets.List(_TUBE),
                }
            ),
        )

    def _compute(
        self,
        clips: list[str],
        predictions: list[list[dict]],
        references: list[list[dict]],
        num_classes: int,
        **options: Any,
    ) -> dict[str, float]:
        metric = VideoMAP(num_classes, **options)
        for clip, found, real in zip(clips, predictions, references, strict=True):
            truth = [Tube(**tube, score=1.0, clip=clip) for tube in real]
            metric.update(clip, truth, [Tube(**tube, clip=clip) for tube in found])
        return metric.compute()
