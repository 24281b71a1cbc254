"""Metrics: numpy functions are the truth; `evaluate` modules stand over them."""

from pathlib import Path

from hf_pgg.metrics.actions import FrameDetections, FrameMAP, VideoMAP
from hf_pgg.metrics.compute_metrics import compute_metrics_of
from hf_pgg.metrics.groups import accuracy, group_accuracies, group_metrics, pair_groups, wilson_interval
from hf_pgg.metrics.localization import BoxAccuracy, PixelAveragePrecision

__all__ = [
    "BoxAccuracy",
    "FrameDetections",
    "FrameMAP",
    "PixelAveragePrecision",
    "VideoMAP",
    "accuracy",
    "box_localization_path",
    "compute_metrics_of",
    "frame_map_path",
    "group_accuracies",
    "group_accuracy_path",
    "group_metrics",
    "pair_groups",
    "pixel_average_precision_path",
    "video_map_path",
    "wilson_interval",
]


def group_accuracy_path() -> str:
    """Folder of the `evaluate` module, for `evaluate.load(group_accuracy_path())`; loads offline."""
    return _module("group_accuracy")


def box_localization_path() -> str:
    """Folder of the `evaluate` module of MaxBoxAcc, MaxBoxAccV2 and top-1 localization."""
    return _module("box_localization")


def pixel_average_precision_path() -> str:
    """Folder of the `evaluate` module of PxAP."""
    return _module("pixel_average_precision")


def frame_map_path() -> str:
    """Folder of the `evaluate` module of frame-mAP."""
    return _module("frame_map")


def video_map_path() -> str:
    """Folder of the `evaluate` module of video-mAP."""
    return _module("video_map")


def _module(name: str) -> str:
    return str(Path(__file__).parent / "modules" / name)
