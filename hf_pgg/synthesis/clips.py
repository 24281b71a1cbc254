"""What the synthesis methods for clips share: sampling and reading their sources, and how a made clip is stored.

A clip is sampled first (T frames) and mixed then, so its provenance is T masks and no frame is decoded in vain.
"""

from __future__ import annotations

import io
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, List, Video
from PIL import Image as PILImage

from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import encode_png
from hf_pgg.data.loading import read_row
from hf_pgg.data.provenance import PROVENANCE, VIDEO, ProvenanceError, Sources, provenance_features, sources_of
from hf_pgg.data.video import encode_clip, open_clip
from hf_pgg.data.video_file import Size
from hf_pgg.synthesis.base import RowSynthesizer


@dataclass(frozen=True)
class SampledClip:
    """The frames of a clip that go into a mix.

    frames: (T, H, W, 3) uint8. indices: (T,) int64, where they are among the clip's `length` frames of `stored_size`.
    """

    frames: np.ndarray
    indices: np.ndarray
    length: int
    stored_size: Size

    @property
    def size(self) -> Size:
        return self.frames.shape[1], self.frames.shape[2]


@dataclass(frozen=True, kw_only=True)
class ClipSynthesizer(RowSynthesizer, ABC):
    """A synthesis method of clips, as a `datasets.map` transform.

    Columns that describe a row's whole clip (frame counts, boxes) describe the *old* clip afterwards.

    Args:
        seed, epoch, row_id_column, label_column: See [`RowSynthesizer`].
        video_column (`str`): The clips' column in the mapped dataset (and in the source pool, where there is one):
            `Video(decode=False)` or, cheapest, `List(Image(decode=False))`.
        sampler (`FrameSampler`, *optional*, defaults to 8 frames over the clip): Which frames make the sample.
        size (`tuple[int, int]`, *optional*): (height, width) of the sample, to which frames are squashed; by default
            that of the row's own clip.
        storage (`str`, *optional*, defaults to `"png"`): `"png"` stores the frames exactly (`List(Image())`), `"jpeg"`
            in a third of the space with errors that stay within 8 pixels of a mask's border (quality 95), `"mp4"` in
            a twentieth as one H.264 file (`Video(decode=False)`), whose errors follow the motion.
    """

    output_column = VIDEO

    video_column: str = VIDEO
    sampler: FrameSampler = field(default_factory=FrameSampler)
    size: Size | None = None
    storage: Literal["png", "jpeg", "mp4"] = "png"

    def __post_init__(self) -> None:
        if self.storage not in ("png", "jpeg", "mp4"):
            raise ValueError(f"storage '{self.storage}' is none of png, jpeg, mp4")

    @property
    def input_column(self) -> str:
        return self.video_column

    def encode(self, image: np.ndarray) -> Any:
        if self.storage == "mp4":
            return encode_clip(image)
        return [(encode_png if self.storage == "png" else _encode_jpeg)(frame) for frame in image]

    def contract_features(self, label: ClassLabel) -> Features:
        return provenance_features(label, video=Video(decode=False) if self.storage == "mp4" else List(Image()))

    def map(self, dataset: Dataset | IterableDataset, **map_kwargs: Any) -> Any:
        refuse_decoding(dataset, self.video_column, "dataset")
        return super().map(dataset, **map_kwargs)

    def sample(self, row: Mapping[str, Any], rng: np.random.Generator, size: Size | None = None) -> SampledClip:
        """A row's sampled frames, brought to `size` (by default the method's own).

        Raises:
            VideoError: If the clip cannot be read.
            ValueError: If it is too short for the sampler.
        """
        return sample_clip(row[self.video_column], self.sampler, rng, size or self.size)

    def sample_pool(self, pool: Dataset, rng: np.random.Generator, size: Size) -> tuple[Mapping[str, Any], SampledClip]:
        """A row of a pool, drawn uniformly, and its sampled clip. Errors name the pool's row."""
        index = int(rng.integers(len(pool)))
        row = read_row(pool, index)
        try:
            return row, self.sample(row, rng, size)
        except ValueError as error:
            remedy = "`probe_clips` finds such rows."
            raise ProvenanceError(f"{index} of the pool", self.video_column, str(error), remedy) from error

    def sources(self, row: Mapping[str, Any], clip: SampledClip) -> Sources:
        """Labels, weights and masks (T, H, W) float32 in [0, 1] of the row's sources in its sampled clip."""
        if row.get(PROVENANCE) is None:  # the target is every frame sampled, whatever the clip's length
            return sources_of(row, clip.frames.shape[:3], self.label_column)
        sources = sources_of(row, (clip.length, *clip.size), self.label_column)
        for mask in sources.masks:
            if mask.shape[1:] != clip.stored_size:
                found, wanted = (f"{size[1]}x{size[0]}" for size in (mask.shape[1:], clip.stored_size))
                raise ValueError(f"column '{PROVENANCE}': {clip.length} masks of {found} for frames of {wanted}")
        return sources._replace(masks=[mask[clip.indices] for mask in sources.masks]).resized(clip.size)


@dataclass(frozen=True, kw_only=True)
class PairClipSynthesizer(ClipSynthesizer, ABC):
    """A method that mixes each row's clip with clips from a source pool.

    Args:
        source (`Dataset`): The pool: the mapped dataset itself or another with the same classes, map-style.
    """

    source: Dataset

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.source) < 2:
            raise ValueError(f"{type(self).__name__} mixes two clips: its source has {len(self.source)} row(s)")
        refuse_decoding(self.source, self.video_column, "source")

    def partner(self, rng: np.random.Generator, size: Size) -> tuple[np.ndarray, Sources]:
        """Frames (T, height, width, 3) and sources of a clip of the pool, drawn uniformly and brought to `size`."""
        row, clip = self.sample_pool(self.source, rng, size)
        return clip.frames, self.sources(row, clip)


def sample_clip(value: Any, sampler: FrameSampler, rng: np.random.Generator, size: Size | None = None) -> SampledClip:
    """The frames of a clip that a sampler takes, brought to `size`; raises what [`ClipSynthesizer.sample`] does."""
    with open_clip(value) as clip:
        indices = sampler.indices(len(clip), rng)
        return SampledClip(clip.read(indices, size), indices, len(clip), clip.stored_size)


def refuse_decoding(dataset: Dataset | IterableDataset, column: str, name: str) -> None:
    """Refuses a `Video()` column, which would decode whole clips (and needs torchcodec)."""
    feature = (dataset.features or {}).get(column)
    if isinstance(feature, Video) and feature.decode:
        raise ValueError(
            f"column '{column}' of `{name}` decodes whole clips:"
            f" `dataset.cast_column('{column}', Video(decode=False))` lets the method read the frames it samples"
        )


def _encode_jpeg(frame: np.ndarray) -> dict[str, Any]:
    buffer = io.BytesIO()
    PILImage.fromarray(frame).save(buffer, format="JPEG", quality=95, subsampling=0)
    return {"bytes": buffer.getvalue(), "path": None}
