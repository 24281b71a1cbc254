"""`evaluate` module over `hf_pgg.metrics.group_metrics`: `evaluate.load(module_path("group_accuracy"))`."""

import datasets
import evaluate

from hf_pgg.metrics import group_metrics

_DESCRIPTION = (
    "Accuracy overall, of the worst group and balanced over groups, and the gap between best and worst group."
)

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of int): Predicted classes.
    references (list of int): True classes.
    groups (list of int): Group of each sample, usually a pair of label and background as one number.
    confidence (float): Of the worst group's Wilson interval; 0.95 by default.
Returns:
    accuracy, worst_group_accuracy (with _low and _high), balanced_accuracy, group_gap, worst_group.
"""

_CITATION = """
@inproceedings{sagawa2020distributionally,
  title={Distributionally Robust Neural Networks for Group Shifts},
  author={Sagawa, Shiori and Koh, Pang Wei and Hashimoto, Tatsunori B. and Liang, Percy},
  booktitle={International Conference on Learning Representations},
  year={2020}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class GroupAccuracy(evaluate.Metric):
    """Accuracy by group."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {name: datasets.Value("int64") for name in ("predictions", "references", "groups")}
            ),
        )

    def _compute(
        self, predictions: list[int], references: list[int], groups: list[int], confidence: float = 0.95
    ) -> dict[str, float]:
        return group_metrics(predictions, references, groups, confidence)
