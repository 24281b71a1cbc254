"""What the synthesis methods for clips share: sampling and reading their sources, and how a made clip is stored.

A clip is sampled first (T frames) and mixed then, so its provenance is T masks and no frame is decoded in vain.
"""

from __future__ import annotations

import io
from abc import ABC
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, List, Video
from PIL import Image as PILImage

from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import encode_png
from hf_pgg.data.loading import read_row
from hf_pgg.data.provenance import PROVENANCE, VIDEO, ProvenanceError, Sources, provenance_features, sources_of
from hf_pgg.data.video import SampledClip, encode_clip, sample_clip
from hf_pgg.data.video_file import Size
from hf_pgg.synthesis.base import Row, RowSynthesizer


@dataclass(frozen=True, kw_only=True)
class ClipSynthesizer(RowSynthesizer, ABC):
    """A synthesis method of clips, as a `datasets.map` transform.

    Columns that describe a row's whole clip (frame counts, boxes) describe the *old* clip afterwards.

    Args:
        video_column (`str`): Column of the clips, in the mapped dataset and in the source pool where there is one:
            `Video(decode=False)` or, cheapest, `List(Image(decode=False))`.
        sampler (`FrameSampler`): Which frames make the sample.
        size (`tuple[int, int]`, *optional*): (height, width) of the sample, to which frames are squashed; by default
            that of the row's own clip.
        storage (`str`): `"png"` stores the frames exactly (`List(Image())`), `"jpeg"`
            in a third of the space with errors that stay within 8 pixels of a mask's border (quality 95), `"mp4"` in
            a twentieth as one H.264 file (`Video(decode=False)`), whose errors follow the motion.

    Example:
        >>> from hf_pgg.synthesis import VideoMix
        >>> method = VideoMix(source=clips, sampler=FrameSampler(4), size=(8, 12))
        >>> frames = method.map(clips)[0]["video"]
        >>> len(frames), frames[0].size
        (4, (12, 8))
    """

    output_column = VIDEO

    video_column: str = VIDEO
    sampler: FrameSampler = field(default_factory=FrameSampler)
    size: Size | None = None
    storage: Literal["png", "jpeg", "mp4"] = "png"

    def __post_init__(self) -> None:
        if self.storage not in ("png", "jpeg", "mp4"):
            raise ValueError(f"storage '{self.storage}' is none of png, jpeg, mp4")

    def encode(self, image: np.ndarray) -> Any:
        if self.storage == "mp4":
            return encode_clip(image)
        return [encode_png(frame) if self.storage == "png" else _encode_jpeg(frame) for frame in image]

    def contract_features(self, label: ClassLabel) -> Features:
        return provenance_features(label, video=Video(decode=False) if self.storage == "mp4" else List(Image()))

    def map(self, dataset: Dataset | IterableDataset, **map_kwargs: Any) -> Any:
        self.refuse_decoding(dataset, "dataset")
        return super().map(dataset, **map_kwargs)

    def refuse_decoding(self, dataset: Dataset | IterableDataset, name: str) -> None:
        """Refuses a `Video()` column, which would decode whole clips (and needs torchcodec)."""
        feature = (dataset.features or {}).get(self.video_column)
        if isinstance(feature, Video) and feature.decode:
            raise ValueError(
                f"column '{self.video_column}' of `{name}` decodes whole clips: `dataset.cast_column("
                f"'{self.video_column}', Video(decode=False))` lets the method read the frames it samples"
            )

    def sample(self, row: Row, rng: np.random.Generator, size: Size | None = None) -> SampledClip:
        """A row's sampled frames, brought to `size` (by default the method's own); raises what `sample_clip` does."""
        return sample_clip(row[self.video_column], self.sampler, rng, size or self.size)

    def sample_pool(self, pool: Dataset, rng: np.random.Generator, size: Size) -> tuple[Row, SampledClip]:
        """A row of a pool, drawn uniformly, and its sampled clip. Errors name the pool's row."""
        index = int(rng.integers(len(pool)))
        row = read_row(pool, index)
        try:
            return row, self.sample(row, rng, size)
        except ValueError as error:
            remedy = "`probe_clips` finds such rows."
            raise ProvenanceError(f"{index} of the pool", self.video_column, str(error), remedy) from error

    def sources(self, row: Row, clip: SampledClip) -> Sources:
        """The row's sources in its sampled clip, with masks (T, H, W)."""
        if row.get(PROVENANCE) is None:  # the target is every frame sampled, whatever the clip's length
            return sources_of(row, clip.frames.shape[:3], self.label_column)
        sources = sources_of(row, (clip.length, *clip.stored_size), self.label_column)
        return sources.with_masks(lambda mask: mask[clip.indices]).resized(clip.size)


def _encode_jpeg(frame: np.ndarray) -> dict[str, Any]:
    """A frame as the value of an `Image` column, without subsampling of the colours."""
    buffer = io.BytesIO()
    PILImage.fromarray(frame).save(buffer, format="JPEG", quality=95, subsampling=0)
    return {"bytes": buffer.getvalue(), "path": None}


@dataclass(frozen=True, kw_only=True)
class PairClipSynthesizer(ClipSynthesizer, ABC):
    """A method that mixes each row's clip with clips from `source`: the mapped dataset or another of the same classes.

    Example:
        >>> from hf_pgg.synthesis import VideoMix
        >>> frames, sources = VideoMix(source=clips).partner(np.random.default_rng(0), (8, 8))
        >>> frames.shape, sources.masks[0].shape
        ((8, 8, 8, 3), (8, 8, 8))
    """

    source: Dataset

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.source) < 2:
            raise ValueError(f"{type(self).__name__} mixes two clips: its source has {len(self.source)} row(s)")
        self.refuse_decoding(self.source, "source")

    def partner(self, rng: np.random.Generator, size: Size) -> tuple[np.ndarray, Sources]:
        """Frames (T, height, width, 3) and sources of a clip of the pool, drawn uniformly and brought to `size`."""
        row, clip = self.sample_pool(self.source, rng, size)
        return clip.frames, self.sources(row, clip)
