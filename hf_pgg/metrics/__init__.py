"""Metrics: numpy functions are the truth; `evaluate` modules stand over them."""

from pathlib import Path

from hf_pgg.metrics.groups import accuracy, group_accuracies, group_metrics, wilson_interval

__all__ = ["accuracy", "group_accuracies", "group_accuracy_path", "group_metrics", "wilson_interval"]


def group_accuracy_path() -> str:
    """Folder of the `evaluate` module, for `evaluate.load(group_accuracy_path())`; loads offline."""
    return str(Path(__file__).with_name("group_accuracy"))
