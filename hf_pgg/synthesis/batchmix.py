"""BatchMix: the skeletons of several clips in one, under a mixed label.

R. Hachiuma, F. Sato, T. Sekii, "Unified Keypoint-based Action Recognition Framework via Structured Keypoint Pooling",
CVPR 2023. They join the clips of a batch; here each row draws its partners, so that it does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features

from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.loading import read_row
from hf_pgg.data.provenance import IMAGE, ProvenanceError, Sources, provenance_features
from hf_pgg.skeletons.rows import KEYPOINT_FEATURE, KEYPOINTS, sample_row
from hf_pgg.synthesis.base import RowSynthesizer, Sample


def join_persons(clips: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The persons of several clips (P_k, F, E) in one clip (P, F, E), one after the other.

    Returns:
        The clip, and for each k the float32 mask (P, F, E) of what stems from it.

    Raises:
        ValueError: If the clips differ in frames or features.
    """
    if len({clip.shape[1:] for clip in clips}) > 1:
        raise ValueError(f"the clips have {[clip.shape[1:] for clip in clips]} frames and features: they must agree")
    owner = np.repeat(np.arange(len(clips)), [len(clip) for clip in clips])
    joined = np.concatenate(clips)
    ones = np.ones(joined.shape[1:], np.float32)
    return joined, [np.multiply.outer((owner == k).astype(np.float32), ones) for k in range(len(clips))]


@dataclass(frozen=True, kw_only=True)
class BatchMix(RowSynthesizer):
    """Joins the persons of each row's clip with those of clips from `source`, every clip with one share of the label.

    The row's persons come first: models of skeletons do not mind the order of persons.

    Args:
        source (`Dataset`): The pool: the mapped dataset itself or another with the same classes, map-style.
        num_clips (`int`, *optional*, defaults to 2): Clips in a mix.
        sampler (`FrameSampler`, *optional*, defaults to 8 frames over the clip): Which frames make the sample.
        keypoints_column (`str`): Its name in the mapped dataset and in the source pool.
        seed, epoch, row_id_column, label_column: See [`~hf_pgg.synthesis.base.RowSynthesizer`].
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

    @property
    def input_column(self) -> str:
        return self.keypoints_column

    def encode(self, image: np.ndarray) -> Any:
        return [[None if np.isnan(frame).any() else frame.tolist() for frame in person] for person in image]

    def contract_features(self, label: ClassLabel) -> Features:
        contract = {name: feature for name, feature in provenance_features(label).items() if name != IMAGE}
        return Features({KEYPOINTS: KEYPOINT_FEATURE, **contract})

    def synthesize(self, row: Mapping[str, Any], rng: np.random.Generator) -> Sample:
        clips = [self._sample(row, rng)] + [self._partner(rng) for _ in range(self.num_clips - 1)]
        joined, owners = join_persons([keypoints for keypoints, _ in clips])
        labels: list[int] = []
        weights: list[float] = []
        masks: list[np.ndarray] = []
        for (_, (own_labels, own_weights, own_masks)), owner in zip(clips, owners, strict=True):
            labels += own_labels
            weights += [weight / len(clips) for weight in own_weights]
            for mask in own_masks:
                placed = np.zeros_like(owner)
                placed[owner > 0] = mask.ravel()
                masks.append(placed)
        return Sample(joined, labels, weights, masks)

    def _sample(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[np.ndarray, Sources]:
        return sample_row(row, rng, self.sampler, self.keypoints_column, self.label_column)

    def _partner(self, rng: np.random.Generator) -> tuple[np.ndarray, Sources]:
        index = int(rng.integers(len(self.source)))
        try:
            return self._sample(read_row(self.source, index), rng)
        except ValueError as error:
            raise ProvenanceError(
                f"{index} of the source", self.keypoints_column, str(error), "Mend or drop the row."
            ) from error
