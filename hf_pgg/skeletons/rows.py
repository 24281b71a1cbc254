"""Keypoints of the persons in a clip: how rows hold them, their unit, and their batches.

The contract is that of `hf_pgg.data.provenance`, with `keypoints` in place of the image: `List(List(List(float32)))` of
shape (P, F, E), persons x frames x features, where a frame in which a person is not seen is None. Each of the K masks
of `provenance` is 255 where a feature comes from that label's clip; it holds the P persons' masks (F, E), stacked from
top to bottom.

A person's E features in a frame are J points of C numbers each, point by point: x and y in pixels, then what else is
known of the point, such as a confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import List, Value

from hf_pgg.data.collator import Collator
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.provenance import PROVENANCE, Sources, naming_row, sources_of
from hf_pgg.data.validation import validate_sources

KEYPOINTS = "keypoints"
KEYPOINT_FEATURE = List(List(List(Value("float32"))))


def read_keypoints(value: Sequence[Sequence[Sequence[float] | None]] | np.ndarray | None) -> np.ndarray:
    """Reads the persons of a `keypoints` column as (P, F, E) float32, NaN in frames in which a person is not seen.

    Raises:
        ValueError: If there is no person, nobody is ever seen, the persons have different numbers of frames or
            features, or a number is NaN or infinite.

    Example:
        >>> read_keypoints([[[1, 2], None]])
        array([[[ 1.,  2.],
                [nan, nan]]], dtype=float32)
    """
    if value is None or len(value) == 0:
        raise ValueError("there is no person")
    lengths = [len(person) for person in value]
    widths = [len(frame) for person in value for frame in person if frame is not None]
    if not widths:
        raise ValueError("no person is seen in any frame")
    if len(set(lengths)) > 1:
        raise ValueError(f"the persons have {lengths} frames: give each as many, None where a person is not seen")
    if len(set(widths)) > 1:
        raise ValueError(f"the frames have {sorted(set(widths))} features: give every person and frame as many")
    keypoints = np.full((len(value), lengths[0], widths[0]), np.nan, np.float32)
    for p, person in enumerate(value):
        for f, frame in enumerate(person):
            if frame is None:
                continue
            keypoints[p, f] = frame
            if not np.isfinite(keypoints[p, f]).all():
                raise ValueError(
                    f"person {p}, frame {f} holds NaN or infinity: mend the keypoints, or give None where a person is"
                    " not seen"
                )
    return keypoints


def sample_row(
    row: Mapping[str, Any],
    rng: np.random.Generator,
    sampler: FrameSampler | None = None,
    input_column: str = KEYPOINTS,
    label_column: str = "label",
) -> tuple[np.ndarray, Sources]:
    """Reads a row's keypoints (P, T, E) in the frames that a sampler takes, and its sources, with masks (P, T, E).

    As for images, a row with one label and no provenance is one source whose target is everything. Keypoints that
    cannot be used (see [`read_keypoints`]), clips too short for the sampler and masks that do not fit are a ValueError.

    Example:
        >>> keypoints, sources = sample_row(skeletons[1], np.random.default_rng(0), FrameSampler(2))
        >>> keypoints.shape, sources.labels, sources.masks[0].shape
        ((1, 2, 6), [1], (1, 2, 6))
    """
    keypoints = read_keypoints(row.get(input_column))
    sources = sources_of(row, keypoints.shape, label_column)
    if sampler is None:
        return keypoints, sources
    indices = sampler.indices(keypoints.shape[1], rng)
    return keypoints[:, indices], sources.with_masks(lambda mask: mask[:, indices])


def normalize_tracks(keypoints: np.ndarray, num_channels: int = 2) -> np.ndarray:
    """Moves each person's mean place over the clip to the origin, and scales its mean square distance from it to 1.

    So neither where a person stands nor how large counts, but how the person moves does, and a person's features do not
    depend on the others. Channels other than x and y are left as they are.

    `keypoints` is (P, F, E), E = J * `num_channels`, NaN in frames in which a person is not seen; in the result these
    are 0.

    Example:
        >>> normalize_tracks(np.array([[[5.0, 7.0, 5.0, 9.0], [np.nan] * 4]]))
        array([[[ 0., -1.,  0.,  1.],
                [ 0.,  0.,  0.,  0.]]], dtype=float32)
    """
    points = keypoints.reshape(*keypoints.shape[:2], -1, num_channels).astype(np.float32)
    for person in points:
        seen = ~np.isnan(person).any((1, 2))
        places = person[seen][..., :2]
        if len(places):
            centred = places - places.mean((0, 1))
            spread = np.sqrt(np.square(centred).sum(-1).mean())
            person[seen, :, :2] = centred / max(spread, np.finfo(np.float32).tiny)
        person[~seen] = 0
    return points.reshape(keypoints.shape)


@dataclass(frozen=True)
class SkeletonCollator(Collator):
    """Turns rows of skeletons into the batch that [`~hf_pgg.PGGTrainer`] and the skeletons' classifier read.

    | key             | shape           | dtype                                                        |
    | --------------- | --------------- | ------------------------------------------------------------ |
    | `keypoints`     | (B, P, F, E)    | float32, see [`normalize_tracks`]; 0 for absent persons      |
    | `present`       | (B, P, F)       | bool: the person is seen in the frame                        |
    | `provenance`    | (B, K, P, F, E) | float32 in [0, 1]; only where some row of the batch has it   |

    `labels`, `label_weights` and `guided` are those of [`~hf_pgg.data.collator.PGGCollator`].

    Args:
        num_channels (`int`): C of the E = J * C features.
        sampler ([`~hf_pgg.data.frame_sampling.FrameSampler`], *optional*): The frames to take; by default all, for
            clips of one length. `"window"` draws from torch's generator.
        flip (`float`): Probability that a clip is mirrored, for training only; not for ordered keypoints, whose left
            and right would have to change places.
        extra_columns (`tuple[str, ...]`): Integer columns (groups) passed on as (B,) int64.
        num_classes (`int`, *optional*): The model's classes, which the trainer tells: no label may lie above.

    Example:
        >>> {name: tuple(values.shape) for name, values in SkeletonCollator()([skeletons[0], skeletons[1]]).items()}
        {'keypoints': (2, 1, 8, 6), 'present': (2, 1, 8), 'labels': (2, 1), 'label_weights': (2, 1), 'guided': (2,)}
    """

    num_channels: int = 2
    sampler: FrameSampler | None = None
    flip: float = 0.0
    input_column: str = KEYPOINTS
    label_column: str = "label"
    extra_columns: tuple[str, ...] = ()
    num_classes: int | None = None

    def for_evaluation(self) -> SkeletonCollator:
        return replace(self, flip=0.0)

    def validate_row(self, row: Mapping[str, Any], name: object, num_classes: int, allow_overlap: bool = False) -> None:
        persons, frames, features = self._sample(row, name)[0].shape
        how: dict[str, Any] = {"label_column": self.label_column, "allow_overlap": allow_overlap}
        validate_sources(row, name, num_classes, (features, persons * frames), **how)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        tracks, sources = zip(*(self._sample(row, f"{i} of the batch") for i, row in enumerate(rows)), strict=True)
        shapes = {found.shape[1:] for found in tracks}
        if len(shapes) > 1:
            raise ValueError(f"the clips of a batch have {sorted(shapes)} frames and features: set `sampler`")
        shape = (max(map(len, tracks)), *shapes.pop())
        keypoints, present = torch.zeros(len(rows), *shape), torch.zeros(len(rows), *shape[:2], dtype=torch.bool)
        for i, found in enumerate(tracks):
            normal = normalize_tracks(found, self.num_channels)
            if torch.rand(()) < self.flip:
                normal[..., :: self.num_channels] *= -1
            keypoints[i, : len(found)] = torch.from_numpy(normal)
            present[i, : len(found)] = torch.from_numpy(~np.isnan(found).any(-1))
        guided = [row.get(PROVENANCE) is not None for row in rows]
        known = [each if has else each._replace(masks=[]) for each, has in zip(sources, guided, strict=True)]
        return self.batch(rows, {KEYPOINTS: keypoints, "present": present}, known, shape)

    def _sample(self, row: Mapping[str, Any], name: object) -> tuple[np.ndarray, Sources]:
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        with naming_row(name, self.input_column):
            return sample_row(row, rng, self.sampler, self.input_column, self.label_column)
