"""VideoMix and tiled clips: several clips mixed into one by boxes in space and time.

VideoMix: S. Yun et al., "VideoMix: Rethinking Data Augmentation for Video Classification", arXiv 2012.03457. A cuboid
of one clip replaces that of another; labels are mixed by the share of voxels. Here the share counts what was replaced
after clipping at the border, and each row draws its own cuboid, so that it does not depend on its batch.

Tiles: the images' form of the mixing of whole clips that R. Hachiuma et al. train a weakly supervised localizer with
("Unified Keypoint-based Action Recognition Framework via Structured Keypoint Pooling", CVPR 2023): they join the
skeletons of several clips under a mixed label; here the clips themselves stand side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hf_pgg.synthesis.base import Sample
from hf_pgg.synthesis.clips import PairClipSynthesizer
from hf_pgg.synthesis.cutmix import mix_sources

Cuboid = tuple[slice, slice, slice]
Mode = Literal["spatial", "temporal", "spatiotemporal"]
_AXES: dict[str, tuple[int, ...]] = {"spatial": (1, 2), "temporal": (0,), "spatiotemporal": (0, 1, 2)}


def videomix_cuboid(shape: tuple[int, int, int], lam: float, centre: tuple[int, int, int], mode: Mode) -> Cuboid:
    """Frames, rows and columns of a cuboid of share 1 - lam of a clip of `shape` (T, H, W), clipped at its border.

    The cuboid spans the clip along the axes that `mode` does not cut; along the d axes that it does, it takes
    (1 - lam)^(1/d) of the clip's length around `centre`.
    """
    axes = _AXES[mode]
    cut = (1 - lam) ** (1 / len(axes))
    spans = []
    for axis, length in enumerate(shape):
        if axis not in axes:
            spans.append(slice(0, length))
            continue
        side = round(length * cut)
        start = centre[axis] - side // 2
        spans.append(slice(max(start, 0), min(start + side, length)))
    return spans[0], spans[1], spans[2]


def paste_cuboid(clip: np.ndarray, other: np.ndarray, cuboid: Cuboid) -> tuple[np.ndarray, np.ndarray]:
    """`clip` (T, H, W, 3) with the cuboid taken from `other`, of the same shape.

    Returns:
        The mixed clip, and the float32 mask (T, H, W) of what stems from `other`.
    """
    mixed, mask = clip.copy(), np.zeros(clip.shape[:3], np.float32)
    mixed[cuboid] = other[cuboid]
    mask[cuboid] = 1
    return mixed, mask


@dataclass(frozen=True, kw_only=True)
class VideoMix(PairClipSynthesizer):
    """VideoMix with a partner from `source`, which is sampled in the same way and resized to the row's clip.

    Args:
        mode (`str`, *optional*, defaults to `"spatial"`): `"spatial"` (the same rectangle in every frame),
            `"temporal"` (all of the frames in one span of time) or `"spatiotemporal"`.
        alpha (`float`, *optional*, defaults to 1.0): lambda, the share that stays, is drawn from Beta(alpha, alpha).
    """

    mode: Mode = "spatial"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in _AXES:
            raise ValueError(f"mode '{self.mode}' is none of {', '.join(_AXES)}")

    def synthesize(self, row: Mapping[str, Any], rng: np.random.Generator) -> Sample:
        clip = self.sample(row, rng)
        shape = clip.frames.shape[:3]
        lam = rng.beta(self.alpha, self.alpha)
        frame, y, x = (int(rng.integers(length)) for length in shape)
        other, theirs = self.partner(rng, clip.size)
        mixed, mask = paste_cuboid(clip.frames, other, videomix_cuboid(shape, lam, (frame, y, x), self.mode))
        return Sample(mixed, *mix_sources(self.sources(row, clip), theirs, mask))
