"""Metrics: numpy functions are the truth; `evaluate` modules stand over them."""

from pathlib import Path

from hf_pgg.metrics.actions import FrameMAP, VideoMAP
from hf_pgg.metrics.compute_metrics import by_group, compute_metrics_of, metrics_for
from hf_pgg.metrics.groups import accuracy, group_accuracies, group_metrics, pair_groups, wilson_interval
from hf_pgg.metrics.localization import BoxAccuracy, PixelAveragePrecision
from hf_pgg.metrics.reliance import Reliance
from hf_pgg.metrics.tubes import FrameDetections

MODULES = (
    "group_accuracy",
    "background_reliance",
    "box_localization",
    "pixel_average_precision",
    "frame_map",
    "video_map",
)

__all__ = [
    "BoxAccuracy",
    "FrameDetections",
    "FrameMAP",
    "MODULES",
    "PixelAveragePrecision",
    "Reliance",
    "VideoMAP",
    "accuracy",
    "by_group",
    "compute_metrics_of",
    "group_accuracies",
    "group_metrics",
    "metrics_for",
    "module_path",
    "pair_groups",
    "wilson_interval",
]


def module_path(name: str) -> str:
    """Returns the folder of one of the `evaluate` modules [`MODULES`], offline; ValueError for others.

    Example:
        >>> import evaluate
        >>> metric = evaluate.load(module_path("group_accuracy"))
        >>> metric.compute(predictions=[0, 1], references=[0, 0], groups=[7, 8])["worst_group_accuracy"]
        0.0
    """
    if name not in MODULES:
        raise ValueError(f"there is no module {name!r}: choose one of {', '.join(MODULES)}")
    return str(Path(__file__).parent / "modules" / name)
