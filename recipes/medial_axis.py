"""Points on the medial axis of an actor's mask: stand-ins where no pose estimator's keypoints are at hand.

They are no real keypoints. They lie along the middle of body and limbs and are spread over the figure, but the third
point of one frame has nothing to do with the third of the next, they stop where a held thing is masked or a limb hides,
and they are as good as the mask. What is built on them shows that a method works, not how well it does on poses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, Features
from skimage.morphology import medial_axis

from hf_pgg.data.boxes import mask_to_box
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import open_image
from hf_pgg.data.masks import read_masks
from hf_pgg.data.provenance import ProvenanceError, naming_row
from hf_pgg.data.video import probe
from hf_pgg.skeletons.rows import KEYPOINT_FEATURE, KEYPOINTS

NUM_POINTS = 13  # a coarse pose's: head, and two shoulders, elbows, hands, hips, knees, feet


class _InOrder(np.random.Generator):
    """scikit-image breaks ties between pixels in a random order of all; in reading order, figures stay independent."""

    def permutation(self, x: Any, axis: int = 0) -> Any:
        return x


def medial_axes(masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The medial axis of each mask (H, W) bool, which may differ in size; nothing of an empty one.

    All masks go on one sheet, apart from each other: scikit-image builds its lookup table anew for every call.
    """
    boxes = {i: mask_to_box(mask) for i, mask in enumerate(masks) if mask.any()}
    axes = [np.zeros_like(mask) for mask in masks]
    if not boxes:
        return axes
    widest = max(width for _, _, width, _ in boxes.values())
    figures = [
        np.pad(masks[i][y : y + height, x : x + width], ((1, 1), (1, 1 + widest - width)))
        for i, (x, y, width, height) in boxes.items()
    ]
    sheet = medial_axis(np.concatenate(figures), rng=_InOrder(np.random.PCG64(0)))
    top = 1
    for i, (x, y, width, height) in boxes.items():
        axes[i][y : y + height, x : x + width] = sheet[top : top + height, 1 : 1 + width]
        top += height + 2
    return axes


def spread_points(mask: np.ndarray, axis: np.ndarray, num_points: int = NUM_POINTS) -> np.ndarray:
    """(num_points, 2) float32 distinct pixels `[x, y]` of a medial axis, spread over it by farthest-point sampling.

    Where the axis is shorter, they are taken from the whole mask.

    Args:
        mask, axis: (H, W) bool.

    Raises:
        ValueError: If the mask has fewer pixels than points are wanted.
    """
    if mask.sum() < num_points:
        raise ValueError(f"a mask of {mask.sum()} pixels does not hold {num_points} distinct points")
    pixels = np.argwhere(axis if axis.sum() >= num_points else mask)[:, ::-1]
    chosen, distance = [0], np.full(len(pixels), np.inf)
    while len(chosen) < num_points:
        distance = np.minimum(distance, np.square(pixels - pixels[chosen[-1]]).sum(1))
        chosen.append(int(distance.argmax()))
    return pixels[chosen].astype(np.float32)


def add_skeletons(
    dataset: Dataset,
    *,
    mask_column: str = "masks",
    video_column: str = "video",
    sampler: FrameSampler | None = None,
    num_points: int = NUM_POINTS,
    **map_kwargs: Any,
) -> Dataset:
    """Adds the column `keypoints` (see [`hf_pgg.skeletons.rows`]) of the one person whose masks a clip has.

    A frame whose mask is empty has no skeleton (None).

    Args:
        mask_column (`str`): The T frames' masks, stacked from top to bottom in one image; above half is the person.
        video_column (`str`): The clips, of which the number and size of the frames is read.
        sampler ([`FrameSampler`], *optional*): Which frames are taken; by default all.
        map_kwargs: Passed on to `Dataset.map` (`num_proc`, ...).

    Raises:
        ProvenanceError: If the masks are not as many or as large as the frames, a clip is too short for the sampler, a
            mask is too small or all are empty; it names the row.
    """
    return dataset.map(
        _rows_to_skeletons,
        batched=True,
        batch_size=32,
        with_indices=True,
        fn_kwargs={
            "mask_column": mask_column,
            "video_column": video_column,
            "sampler": sampler,
            "num_points": num_points,
        },
        features=Features({**dataset.features, KEYPOINTS: KEYPOINT_FEATURE}),
        **map_kwargs,
    )


def _rows_to_skeletons(
    batch: Mapping[str, Sequence[Any]],
    indices: Sequence[int],
    mask_column: str,
    video_column: str,
    sampler: FrameSampler | None,
    num_points: int,
) -> dict[str, list[Any]]:
    rows = []
    for row, masks, video in zip(indices, batch[mask_column], batch[video_column], strict=True):
        rows.append(_sampled_masks(row, masks, video, sampler, mask_column))
    axes = iter(medial_axes([mask for masks in rows for mask in masks]))
    persons = []
    for row, masks in zip(indices, rows, strict=True):
        frames = [(mask, next(axes)) for mask in masks]
        try:
            person = [spread_points(*frame, num_points).ravel() if frame[0].any() else None for frame in frames]
        except ValueError as error:
            raise ProvenanceError(row, mask_column, str(error), "Take fewer points, or drop the row.") from error
        if all(frame is None for frame in person):
            raise ProvenanceError(row, mask_column, "the masks of all frames are empty", "Drop the row.")
        persons.append([person])
    return {KEYPOINTS: persons}


def _sampled_masks(row: int, masks: Any, video: Any, sampler: FrameSampler | None, mask_column: str) -> np.ndarray:
    """(T, H, W) bool, checked against the clip."""
    clip = probe(video)
    size, expected = open_image(masks).size, (clip.width, clip.num_frames * clip.height)
    if size != expected:
        problem = (
            f"masks of {size[0]}x{size[1]} pixels for {clip.num_frames} frames of {clip.width}x{clip.height}, which"
            f" take {expected[0]}x{expected[1]}"
        )
        raise ProvenanceError(row, mask_column, problem, "Stack one mask a frame from top to bottom.")
    indices = np.arange(clip.num_frames)
    if sampler is not None:
        try:
            indices = sampler.indices(clip.num_frames, np.random.default_rng(row))
        except ValueError as error:
            raise ProvenanceError(row, mask_column, str(error), "Or drop the row.") from error
    with naming_row(row, mask_column):
        shape = (clip.num_frames, clip.height, clip.width)
        return read_masks(masks, shape, indices=indices, may_be_empty=True) > 0.5
