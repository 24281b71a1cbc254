"""Which frames of a clip make a sample, decided from the clip's length alone.

`uniform` takes the middle of equal segments (L. Wang et al., "Temporal Segment Networks", ECCV 2016), `dense` the
middle run of neighbouring frames, `window` a run that starts at random (C. Feichtenhofer et al., "SlowFast Networks for
Video Recognition", ICCV 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


def uniform_indices(length: int, num_frames: int) -> np.ndarray:
    """Returns the middles of `num_frames` equal segments of a clip of `length` frames, (T,) int64 ascending.

    A clip shorter than the sample repeats frames: every frame stands for the segments whose middle it holds.

    Example:
        >>> uniform_indices(8, 4), uniform_indices(2, 4)
        (array([1, 3, 5, 7]), array([0, 0, 1, 1]))
    """
    _check(length, num_frames)
    return (2 * np.arange(num_frames, dtype=np.int64) + 1) * length // (2 * num_frames)


def dense_indices(
    length: int, num_frames: int, stride: int = 1, *, start: int | None = None, hold_last: bool = False
) -> np.ndarray:
    """Returns a run of `num_frames` indices `stride` apart, (T,) int64 ascending.

    Args:
        start (`int`, *optional*): The first index; by default the run stands in the clip's middle.
        hold_last (`bool`): Whether a clip that is too short repeats its last frame.

    Raises:
        ValueError: If the run does not fit in the clip and `hold_last` is not set.

    Example:
        >>> dense_indices(8, 3, stride=2), dense_indices(2, 3, hold_last=True)
        (array([1, 3, 5]), array([0, 1, 1]))
    """
    _check(length, num_frames, stride)
    span = (num_frames - 1) * stride + 1
    if start is None:
        start = max(length - span, 0) // 2
    if not 0 <= start < length or (start + span > length and not hold_last):
        raise ValueError(
            f"{num_frames} frames {stride} apart from frame {start} on need a clip of {start + span} frames, this one"
            f" has {length}: take fewer frames or a smaller stride, sample uniformly, or set `hold_last`"
        )
    return np.minimum(start + stride * np.arange(num_frames, dtype=np.int64), length - 1)


def _check(length: int, num_frames: int, stride: int = 1) -> None:
    if length < 1 or num_frames < 1 or stride < 1:
        raise ValueError(f"length {length}, num_frames {num_frames} and stride {stride} must be at least 1")


@dataclass(frozen=True)
class FrameSampler:
    """One of the three ways with its settings, as synthesis methods and collators hold it.

    Args:
        stride (`int`): Frames from one to the next, for `"dense"` and `"window"`.
        hold_last (`bool`): For these two, whether a clip that is too short repeats its last frame; otherwise it is
            refused.

    Raises:
        ValueError: If the mode is unknown, or does not have a setting that is given.

    Example:
        >>> FrameSampler(4, "dense").indices(20, np.random.default_rng(0))
        array([ 8,  9, 10, 11])
    """

    num_frames: int = 8
    mode: Literal["uniform", "dense", "window"] = "uniform"
    stride: int = 1
    hold_last: bool = False

    def __post_init__(self) -> None:
        _check(1, self.num_frames, self.stride)
        if self.mode not in ("uniform", "dense", "window"):
            raise ValueError(f"mode '{self.mode}' is none of uniform, dense, window")
        if self.mode == "uniform" and (self.stride != 1 or self.hold_last):
            raise ValueError("`stride` and `hold_last` belong to the modes dense and window")

    def indices(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Returns (T,) int64 ascending indices into a clip of `length` frames; only `"window"` draws from `rng`."""
        if self.mode == "uniform":
            return uniform_indices(length, self.num_frames)
        start = None
        if self.mode == "window":
            _check(length, self.num_frames)
            start = int(rng.integers(max(length - (self.num_frames - 1) * self.stride, 1)))
        return dense_indices(length, self.num_frames, self.stride, start=start, hold_last=self.hold_last)
