"""`evaluate` modules of classification as the `compute_metrics` of a Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from evaluate import CombinedEvaluations, EvaluationModule

from hf_pgg.metrics.groups import pair_groups


def compute_metrics_of(
    metric: EvaluationModule | CombinedEvaluations, group_column: str | None = None
) -> Callable[[Any], dict[str, float]]:
    """`compute_metrics` that gives a module the predicted and the true classes, and the groups where it wants them.

        metric = evaluate.load(group_accuracy_path())
        args = PGGConfig(output_dir="out", group_columns=["scene"])
        trainer = PGGTrainer(model, args, ..., compute_metrics=compute_metrics_of(metric, "scene"))

    Args:
        metric: A loaded module that takes `predictions` and `references` (N,), and `groups` (N,) if `group_column` is
            given; or several, of `evaluate.combine`.
        group_column (`str`, *optional*): One of `PGGConfig.group_columns`. A group is a label on a value of it, see
            [`pair_groups`].
    """

    def compute(prediction: Any) -> dict[str, float]:
        logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        labels = np.asarray(prediction.label_ids)
        inputs = {"predictions": logits.argmax(-1), "references": labels}
        if group_column is not None:
            inputs["groups"] = pair_groups(labels, prediction.groups[group_column])
        metric.add_batch(**inputs)
        return metric.compute()

    return compute
