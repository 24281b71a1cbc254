"""Which frames of a clip make a sample: pure functions from a clip's length to frame indices.

`uniform` takes the middle of equal segments (L. Wang et al., "Temporal Segment Networks", ECCV 2016), `dense` the
middle run of neighbouring frames, `window` a run that starts at random (C. Feichtenhofer et al., "SlowFast Networks for
Video Recognition", ICCV 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


def uniform_indices(length: int, num_frames: int) -> np.ndarray:
    """The middles of `num_frames` equal segments of a clip of `length` frames, (T,) int64 ascending.

    A clip shorter than the sample repeats frames: every frame stands for the segments whose middle it holds.
    """
    _check(length, num_frames)
    return (2 * np.arange(num_frames, dtype=np.int64) + 1) * length // (2 * num_frames)


def dense_indices(
    length: int, num_frames: int, stride: int = 1, *, start: int | None = None, hold_last: bool = False
) -> np.ndarray:
    """`num_frames` frames `stride` apart, (T,) int64 ascending.

    Args:
        start (`int`, *optional*): The first index; by default the run stands in the clip's middle.
        hold_last (`bool`, *optional*, defaults to `False`): Whether a clip that is too short repeats its last frame.

    Raises:
        ValueError: If the run does not fit in the clip and `hold_last` is not set.
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


def window_indices(
    length: int, num_frames: int, stride: int = 1, *, rng: np.random.Generator, hold_last: bool = False
) -> np.ndarray:
    """As `dense_indices`, from a start drawn uniformly among those that fit (0 where none does)."""
    _check(length, num_frames, stride)
    span = (num_frames - 1) * stride + 1
    start = int(rng.integers(max(length - span, 0) + 1))
    return dense_indices(length, num_frames, stride, start=start, hold_last=hold_last)


def _check(length: int, num_frames: int, stride: int = 1) -> None:
    if length < 1 or num_frames < 1 or stride < 1:
        raise ValueError(f"length {length}, num_frames {num_frames} and stride {stride} must be at least 1")


@dataclass(frozen=True)
class FrameSampler:
    """One of the three ways with its settings, as synthesis methods and collators hold it.

    Args:
        num_frames (`int`, *optional*, defaults to 8): T.
        mode (`str`, *optional*, defaults to `"uniform"`): `"uniform"`, `"dense"` or `"window"`.
        stride (`int`, *optional*, defaults to 1): Frames from one to the next, for `"dense"` and `"window"`.
        hold_last (`bool`, *optional*, defaults to `False`): For these two, repeat the last frame of a clip that is too
            short, instead of an error.
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
        """(T,) int64 ascending indices into a clip of `length` frames; only `"window"` draws from `rng`."""
        if self.mode == "uniform":
            return uniform_indices(length, self.num_frames)
        if self.mode == "dense":
            return dense_indices(length, self.num_frames, self.stride, hold_last=self.hold_last)
        return window_indices(length, self.num_frames, self.stride, rng=rng, hold_last=self.hold_last)
