"""`evaluate` module over `hf_pgg.metrics.group_metrics`: `evaluate.load(module_path("group_accuracy"))`."""

import evaluate
from datasets import Value

from hf_pgg.metrics import group_metrics
from hf_pgg.metrics.modules.shared import SAGAWA_2020, module_info


class GroupAccuracy(evaluate.Metric):
    """Accuracy by group; the card beside this file says how to use it.

    Example:
        >>> GroupAccuracy().compute(predictions=[0, 1], references=[0, 0], groups=[7, 8])["worst_group"]
        8
    """

    def _info(self) -> evaluate.MetricInfo:
        columns = {name: Value("int64") for name in ("predictions", "references", "groups")}
        return module_info("group_accuracy", SAGAWA_2020, **columns)

    def _compute(
        self, predictions: list[int], references: list[int], groups: list[int], confidence: float = 0.95
    ) -> dict[str, float]:
        return group_metrics(predictions, references, groups, confidence)
