"""Metrics: numpy functions are the truth; `evaluate` modules stand over them."""

from hf_pgg.metrics.groups import accuracy, group_accuracies, group_metrics, wilson_interval

__all__ = ["accuracy", "group_accuracies", "group_metrics", "wilson_interval"]
