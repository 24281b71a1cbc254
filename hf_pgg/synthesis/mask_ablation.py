"""The paper's ablations of provenance: masks grown, shrunk, put in the wrong place, or ignored.

A map transform over rows that already have provenance, of whatever method; nothing but the masks changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from datasets import Features
from scipy.ndimage import distance_transform_edt

from hf_pgg.data.images import decode_mask, encode_mask
from hf_pgg.data.loading import read_column
from hf_pgg.data.provenance import PROVENANCE, ProvenanceError
from hf_pgg.data.video import open_clip
from hf_pgg.synthesis.base import Batch, RowTransform

Kind = Literal["dilate", "erode", "random", "whole"]


def _resize_mask_area(mask: np.ndarray, fraction: float) -> np.ndarray:
    """A mask (H, W), cut at 1/2, grown (fraction > 0) or shrunk (< 0) along its border by `fraction` of its area."""
    solid = mask >= 0.5
    wanted = round(solid.sum() * (1 + fraction))
    if not solid.any() or wanted >= solid.size:
        return np.full(mask.shape, solid.any())
    # signed distance: positive outside, negative inside; the `wanted` smallest are the new mask
    distance = distance_transform_edt(~solid) - distance_transform_edt(solid)
    grown = np.zeros(solid.size, bool)
    grown[np.argsort(distance, axis=None, kind="stable")[:wanted]] = True
    return grown.reshape(mask.shape)


def _misplaced_mask(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mask ([T,] H, W) shifted around the borders by a uniform offset, one for all frames; its area stays."""
    height, width = mask.shape[-2:]
    return np.roll(mask, (int(rng.integers(height)), int(rng.integers(width))), axis=(-2, -1))


@dataclass(frozen=True, kw_only=True)
class MaskAblation(RowTransform):
    """Replaces each row's masks, and nothing else, to show what right masks are worth.

    Args:
        kind (`str`): `"dilate"` or `"erode"` by `fraction` of the area, `"random"` (true shape, random place), or
            `"whole"`: I = 0, the penalty over the whole image (for the form l2 alone: the share outside an empty mask
            is constant). Dilated or misplaced masks of several sources may overlap: set `allow_overlap` in the config.
        fraction (`float`): Share of the area, for `"dilate"` and `"erode"`.
        video_column (`str`, *optional*): The rows are clips, in this column: their masks change frame by frame, all by
            one shift where the kind is `"random"`.

    Example:
        >>> eroded = MaskAblation(kind="erode", fraction=0.5).map(rows)
        >>> [int((np.asarray(row["provenance"][0]) > 0).sum()) for row in (rows[0], eroded[0])]
        [64, 32]
    """

    kind: Kind
    fraction: float = 0.1
    video_column: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind '{self.kind}' is none of {', '.join(get_args(Kind))}")

    @classmethod
    def named(cls, name: str, **options: Any) -> MaskAblation:
        """From a word of a command line (else ValueError): `"random"`, `"whole"`, `"dilate:0.3"`, `"erode:0.1"`."""
        kind, _, fraction = name.partition(":")
        return cls(kind=cast(Kind, kind), fraction=float(fraction or cls.fraction), **options)

    @property
    def columns(self) -> tuple[str, ...]:
        return (PROVENANCE, *([] if self.video_column is None else [self.video_column]), *super().columns)

    def __call__(self, batch: Batch, indices: Sequence[int] | None = None) -> dict[str, list[Any]]:
        """A batch of rows to their new masks; one that cannot be read is a ProvenanceError, which names the row."""
        columns = {name: read_column(batch, name) for name in self.columns}
        replaced: list[Any] = []
        for i, masks in enumerate(columns[PROVENANCE]):
            row = {name: values[i] for name, values in columns.items()}
            name = self._row_id(row, None if indices is None else indices[i])
            if masks is None:
                replaced.append(None)
                continue
            rng, frames = self.generator(name), None
            try:
                if self.video_column is not None:
                    with open_clip(row[self.video_column]) as clip:
                        frames = len(clip)
                masks = [None if mask is None else decode_mask(mask, frames).astype(np.float32) / 255 for mask in masks]
            except (ValueError, OSError) as error:
                raise ProvenanceError(name, PROVENANCE, str(error), "Mend or drop the row.") from error
            replaced.append([None if mask is None else encode_mask(self._replace(mask, rng)) for mask in masks])
        return {PROVENANCE: replaced}

    def features(self, features: Features) -> Features:
        if PROVENANCE not in features:
            raise ValueError(f"the rows have no masks to replace: no column '{PROVENANCE}' but {sorted(features)}")
        return features

    def _replace(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.kind == "random":
            return _misplaced_mask(mask, rng)
        if self.kind == "whole":
            return np.zeros_like(mask)
        fraction = self.fraction if self.kind == "dilate" else -self.fraction
        if mask.ndim == 2:
            return _resize_mask_area(mask, fraction)
        return np.stack([_resize_mask_area(frame, fraction) for frame in mask])
