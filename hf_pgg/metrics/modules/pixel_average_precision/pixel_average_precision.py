"""`evaluate` module over `hf_pgg.metrics.PixelAveragePrecision`: `evaluate.load(module_path(...))`."""

from collections.abc import Sequence

import evaluate
from datasets import List, Value
from numpy.typing import ArrayLike

from hf_pgg.metrics.localization import PixelAveragePrecision as StreamingMetric
from hf_pgg.metrics.localization import threshold_grid
from hf_pgg.metrics.modules.shared import CHOE_2020, NUMBERS, module_info


class PixelAveragePrecision(evaluate.Metric):
    """Pixel average precision; the card beside this file says how to use it.

    Example:
        >>> PixelAveragePrecision().compute(predictions=[[[0.9, 0.1]]], references=[[[1, 0]]])["num_maps"]
        1
    """

    def _info(self) -> evaluate.MetricInfo:
        columns = {"predictions": List(NUMBERS), "references": List(List(Value("uint8")))}
        return module_info("pixel_average_precision", CHOE_2020, **columns)

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
