"""VideoMix: a cuboid of one clip, in space, in time or in both, replaced by that of another.

S. Yun et al., "VideoMix: Rethinking Data Augmentation for Video Classification", arXiv 2012.03457. Labels are mixed by
the share of voxels. Here the share counts what was replaced after clipping at the border, and each row draws its own
cuboid, so that it does not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hf_pgg.synthesis.base import Row, Sample
from hf_pgg.synthesis.clips import PairClipSynthesizer
from hf_pgg.synthesis.pasting import paste_window

_AXES: dict[str, tuple[int, ...]] = {"spatial": (1, 2), "temporal": (0,), "spatiotemporal": (0, 1, 2)}


def _videomix_cuboid(shape: tuple[int, ...], lam: float, centre: tuple[int, ...], mode: str) -> tuple[slice, ...]:
    """Frames, rows and columns of a cuboid of share 1 - lam of a clip of `shape` (T, H, W), clipped at its border."""
    cuboid = [slice(0, length) for length in shape]
    for axis in _AXES[mode]:
        side = round(shape[axis] * (1 - lam) ** (1 / len(_AXES[mode])))
        start = centre[axis] - side // 2
        cuboid[axis] = slice(max(start, 0), min(start + side, shape[axis]))
    return tuple(cuboid)


@dataclass(frozen=True, kw_only=True)
class VideoMix(PairClipSynthesizer):
    """Replaces a cuboid of each row's clip by that of a partner from `source`, resized to the clip.

    Args:
        mode (`str`): `"spatial"` (the same rectangle in every frame),
            `"temporal"` (all of the frames in one span of time) or `"spatiotemporal"`.
        alpha (`float`): lambda, the share that stays, is drawn from Beta(alpha, alpha).

    Example:
        >>> mixed = VideoMix(source=clips, mode="temporal").map(clips)
        >>> len(mixed[0]["video"]), mixed[0]["label_weights"]
        (8, [0.75, 0.25])
    """

    mode: Literal["spatial", "temporal", "spatiotemporal"] = "spatial"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in _AXES:
            raise ValueError(f"mode '{self.mode}' is none of {', '.join(_AXES)}")

    def synthesize(self, row: Row, rng: np.random.Generator) -> Sample:
        clip = self.sample(row, rng)
        shape = clip.frames.shape[:3]
        lam = rng.beta(self.alpha, self.alpha)
        centre = tuple(int(rng.integers(length)) for length in shape)
        other, other_sources = self.partner(rng, clip.size)
        mixed, mask = paste_window(clip.frames, other, _videomix_cuboid(shape, lam, centre, self.mode))
        return Sample(mixed, *self.sources(row, clip).mix(other_sources, mask))
