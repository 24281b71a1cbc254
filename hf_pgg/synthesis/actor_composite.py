"""Actors on other scenes: each frame's actor pasted on a frame of another clip, or on an image of a scene.

The clips' form of compositing and of the exchange of backgrounds: the model sees the action where its usual scene is
not. The masks of the actor, one a frame, are the provenance. Kin: J. Kimata et al., "ObjectMix: Data Augmentation by
Copy-Pasting Objects in Videos for Action Recognition", MMAsia 2022, which pastes segmented objects of two clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.ndimage import gaussian_filter, maximum_filter

from hf_pgg.data.images import to_rgb
from hf_pgg.data.loading import read_row
from hf_pgg.data.masks import MaskSettings, read_clip_masks
from hf_pgg.data.provenance import IMAGE, PROVENANCE, ColumnError, naming_row
from hf_pgg.data.video import SampledClip
from hf_pgg.data.video_file import Size
from hf_pgg.synthesis.background_exchange import fill_target
from hf_pgg.synthesis.base import Row, Sample
from hf_pgg.synthesis.clips import ClipSynthesizer
from hf_pgg.synthesis.composite import background_classes
from hf_pgg.synthesis.pasting import blend, crop_to_aspect


@dataclass(frozen=True, kw_only=True)
class ActorComposite(ClipSynthesizer):
    """Puts each row's actor, where and as it moves, on the frames of a row drawn from `backgrounds`.

    The labels stay the row's. An actor whom the background's masks show is filled first with the colours around him.

    Args:
        backgrounds (`Dataset`): Clips (the method's `video_column`), or still scenes (column `image`).
        mask_column (`str`, *optional*): The actor's masks, one a frame: `List(Image())`, or one image with the masks
            stacked from top to bottom; of any kind that [`hf_pgg.data.masks`] lists. By default the row's provenance.
            Backgrounds may have it too.
        target_value, ignore_value, channel (*optional*): See [`~hf_pgg.data.masks.MaskSettings`].
        background_column (`str`, *optional*): `ClassLabel` of `backgrounds`, kept in the output as `background`.
        flip (`float`): Probability of a horizontal flip of the actor's clip.
        feather (`float`): Standard deviation, in pixels, of the edge's blur; the blurred mask is the provenance.
        margin (`int`): Pixels by which a background's masks are grown before its actor is
            filled: masks often miss hair, clothes and shadow.

    Example:
        >>> moved = ActorComposite(backgrounds=scenes, mask_column="masks", background_column="label").map(clips)
        >>> moved[0]["background"], moved[0]["video"][0].getpixel((15, 15))
        (1, (20, 90, 30))
    """

    backgrounds: Dataset
    mask_column: str | None = None
    target_value: float | None = None
    ignore_value: float | None = None
    channel: str | None = None
    background_column: str | None = None
    flip: float = 0.5
    feather: float = 0.7
    margin: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        columns = self.backgrounds.column_names
        if len(self.backgrounds) == 0 or not {self.video_column, IMAGE} & set(columns):
            raise ValueError(
                f"`backgrounds` has {len(self.backgrounds)} rows and the columns {columns}: it needs clips in"
                f" '{self.video_column}' or images in '{IMAGE}'"
            )
        self.refuse_decoding(self.backgrounds, "backgrounds")
        self.extra_features()  # refuses a `background_column` without classes

    @property
    def columns(self) -> tuple[str, ...]:
        return super().columns if self.mask_column is None else (*super().columns, self.mask_column)

    def extra_features(self) -> dict[str, Any]:
        return background_classes(self.backgrounds, self.background_column)

    def synthesize(self, row: Row, rng: np.random.Generator) -> Sample:
        clip = self.sample(row, rng)
        labels, weights, _ = self.sources(row, clip)
        frames, masks = clip.frames, self._actors(row, clip)
        if masks is None:
            raise ValueError("no actor: give a `mask_column`, or rows with provenance")
        if len(masks) != len(labels):
            raise ValueError(f"one mask in '{self.mask_column}' for {len(labels)} labels: leave `mask_column` out")
        if not any(mask.any() for mask in masks):
            raise ValueError("the actor's masks are empty in all of the frames sampled")
        if rng.random() < self.flip:
            frames, masks = frames[:, :, ::-1], [mask[:, :, ::-1] for mask in masks]
        if self.feather > 0:
            masks = [gaussian_filter(mask, (0, self.feather, self.feather), mode="nearest") for mask in masks]
        scene, background = self._background(len(frames), clip.size, rng)
        extra = {} if self.background_column is None else {"background": scene[self.background_column]}
        return Sample(blend(frames, background, np.clip(sum(masks), 0, 1)), labels, weights, masks, extra)

    def _actors(self, row: Row, clip: SampledClip) -> list[np.ndarray] | None:
        """Masks (T, H, W) of the actor of each source, None where nothing is known."""
        if self.mask_column is not None and row.get(self.mask_column) is not None:
            try:
                settings = MaskSettings(self.target_value, self.ignore_value, self.channel)
                return [read_clip_masks(row[self.mask_column], clip, settings)]
            except (ValueError, OSError) as error:
                raise ColumnError(self.mask_column, str(error), "Mend the masks, or remove the row.") from error
        stored = [] if row.get(PROVENANCE) is None else self.sources(row, clip).masks
        masks = [mask for mask in stored if mask is not None]
        return masks if masks and len(masks) == len(stored) else None

    def _background(self, num_frames: int, size: Size, rng: np.random.Generator) -> tuple[Row, np.ndarray]:
        """A row of the pool, and its (T, H, W, 3) frames without the actor."""
        if self.video_column not in self.backgrounds.column_names:
            index = int(rng.integers(len(self.backgrounds)))
            with naming_row(index, "backgrounds"):
                scene = read_row(self.backgrounds, index)
                still = crop_to_aspect(to_rgb(scene[IMAGE]), size, rng)
            return scene, np.broadcast_to(still, (num_frames, *still.shape))
        row, clip = self.sample_pool(self.backgrounds, rng, size)
        actors = self._actors(row, clip)
        if actors is None:
            return row, clip.frames
        inside = np.clip(sum(actors), 0, 1)
        if self.margin:
            inside = maximum_filter(inside, (1, 2 * self.margin + 1, 2 * self.margin + 1))
        return row, np.stack([fill_target(*frame) for frame in zip(clip.frames, inside, strict=True)])
