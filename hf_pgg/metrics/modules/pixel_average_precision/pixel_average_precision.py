"""`evaluate` module over `hf_pgg.metrics.PixelAveragePrecision`: `evaluate.load(module_path(...))`."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate
from numpy.typing import ArrayLike

from hf_pgg.metrics.localization import PixelAveragePrecision as StreamingMetric
from hf_pgg.metrics.localization import threshold_grid

_DESCRIPTION = (
    "PxAP: the area under the precision-recall curve of the pixels of score maps against object masks, pooled over the"
    " split, as in the reference evaluator of weakly supervised object localization (a fraction, not per cent)."
)

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of (H, W) float): Score maps of any size and scale, each over its whole image.
    references (list of (H, W)): Object mask of each image, of 0 and 1 or of 0 and 255.
    ignore (list of (H, W), optional): Masks of pixels that do not count, in the order of the maps; None where all do.
    delta (float): Step of the thresholds; 0.01 by default.
Returns:
    pixel_average_precision, num_maps.
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
class PixelAveragePrecision(evaluate.Metric):
    """Pixel average precision."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.List(datasets.Value("float64"))),
                    "references": datasets.List(datasets.List(datasets.Value("uint8"))),
                }
            ),
        )

    def _compute(
        self,
        predictions: list[list[list[float]]],
        references: list[list[list[int]]],
        ignore: Sequence[ArrayLike | None] | None = None,
        delta: float = 0.01,
    ) -> dict[str, float]:
        metric = StreamingMetric(threshold_grid(delta))
        ignored = [None] * len(predictions) if ignore is None else ignore
        for score_map, mask, region in zip(predictions, references, ignored, strict=True):
            metric.update(score_map, mask, region)
        return metric.result()
