"""BatchMix: the skeletons of several clips in one, under a mixed label.

R. Hachiuma, F. Sato, T. Sekii, "Unified Keypoint-based Action Recognition Framework via Structured Keypoint Pooling",
CVPR 2023. They join the clips of a batch; here each row draws its partners, so that it does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features

from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.loading import read_row
from hf_pgg.data.provenance import IMAGE, ProvenanceError, Sources, provenance_features
from hf_pgg.skeletons.rows import KEYPOINT_FEATURE, KEYPOINTS, sample_row
from hf_pgg.synthesis.base import Row, RowSynthesizer, Sample
from hf_pgg.synthesis.pasting import place_sources


def _join_persons(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, list[slice]]:
    """The persons of several clips (P_k, F, E) in one clip (P, F, E), and the place of each clip's persons in it."""
    if len({clip.shape[1:] for clip in clips}) > 1:
        raise ValueError(f"the clips have {[clip.shape[1:] for clip in clips]} frames and features: they must agree")
    borders = accumulate((len(clip) for clip in clips), initial=0)
    return np.concatenate(clips), [slice(start, stop) for start, stop in pairwise(borders)]


@dataclass(frozen=True, kw_only=True)
class BatchMix(RowSynthesizer):
    """Joins the persons of each row's clip with those of clips from `source`, every clip with one share of the label.

    The row's persons come first: models of skeletons do not mind the order of persons.

    `source` is the mapped dataset itself or another with the same classes, map-style.

    Example:
        >>> mixed = BatchMix(source=skeletons).map(skeletons)
        >>> np.shape(skeletons[0]["keypoints"]), np.shape(mixed[0]["keypoints"]), mixed[0]["label_weights"]
        ((1, 8, 6), (2, 8, 6), [0.5, 0.5])
    """

    output_column = KEYPOINTS

    source: Dataset
    num_clips: int = 2
    sampler: FrameSampler = field(default_factory=FrameSampler)
    keypoints_column: str = KEYPOINTS

    def __post_init__(self) -> None:
        if self.num_clips < 2:
            raise ValueError(f"num_clips is {self.num_clips}: a mix takes at least 2")
        if len(self.source) < 2:
            raise ValueError(f"BatchMix joins clips: its source has {len(self.source)} row(s)")

    def encode(self, image: np.ndarray) -> Any:
        return [[None if np.isnan(frame).any() else frame.tolist() for frame in person] for person in image]

    def contract_features(self, label: ClassLabel) -> Features:
        contract = {name: feature for name, feature in provenance_features(label).items() if name != IMAGE}
        return Features({KEYPOINTS: KEYPOINT_FEATURE, **contract})

    def synthesize(self, row: Row, rng: np.random.Generator) -> Sample:
        clips = [self._sample(row, rng)] + [self._partner(rng) for _ in range(self.num_clips - 1)]
        joined, places = _join_persons([keypoints for keypoints, _ in clips])
        parts = [(sources, place, 1 / len(clips)) for (_, sources), place in zip(clips, places, strict=True)]
        return Sample(joined, *place_sources(parts, joined.shape))

    def _sample(self, row: Row, rng: np.random.Generator) -> tuple[np.ndarray, Sources]:
        return sample_row(row, rng, self.sampler, self.keypoints_column, self.label_column)

    def _partner(self, rng: np.random.Generator) -> tuple[np.ndarray, Sources]:
        index = int(rng.integers(len(self.source)))
        try:
            return self._sample(read_row(self.source, index), rng)
        except ValueError as error:
            remedy = "Mend or drop the row."
            raise ProvenanceError(f"{index} of the source", self.keypoints_column, str(error), remedy) from error
