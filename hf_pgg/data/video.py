"""Clips of every kind that `datasets` holds: reading exact frames, counting what cannot be read, writing mp4.

`Video(decode=False)` columns (bytes, folders of clips, streams) are read by `hf_pgg.data.video_file`; `List(Image())`
columns and arrays need no PyAV. Which frames make a sample is decided in `hf_pgg.data.frame_sampling`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value
from PIL import Image as PILImage

from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import open_image, to_rgb, to_uint8, undecoded
from hf_pgg.data.provenance import IMAGE
from hf_pgg.data.video_file import Clip, ClipInfo, Size, VideoError, VideoFile, pyav


class _FrameList(Clip):
    """A clip held as its images, `List(Image())`, or as an array (T, H, W, 3)."""

    def __init__(self, images: Sequence[Any] | np.ndarray):
        self.name = f"of {len(images)} images"
        if not len(images):
            raise VideoError("empty", self.name, "it has no frame")
        # the range of an array is that of all its frames: a dark one proves nothing
        self._images = _frames_to_uint8(images, self.name) if isinstance(images, np.ndarray) else images

    def __exit__(self, *exception: object) -> None:
        """Images hold nothing open."""

    def __len__(self) -> int:
        return len(self._images)

    def _decode(self, wanted: np.ndarray, size: Size | None) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted.tolist():
            try:
                frame = to_rgb(self._images[index])
            except (ValueError, OSError) as error:
                raise VideoError("corrupt", self.name, f"frame {index}: {error}") from error
            self.stored_size = frame.shape[0], frame.shape[1]
            if size is not None and self.stored_size != tuple(size):
                frame = np.asarray(PILImage.fromarray(frame).resize(size[::-1], PILImage.Resampling.BILINEAR))
            yield index, frame


def _frames_to_uint8(frames: np.ndarray, name: str) -> np.ndarray:
    try:
        return to_uint8(frames.reshape(-1, *frames.shape[2:])).reshape(frames.shape)
    except ValueError as error:
        raise VideoError("corrupt", name, str(error)) from error


def open_clip(value: Any) -> Clip:
    """Opens a clip as `datasets` holds it, for use in `with`: `len(clip)`, `clip.read(indices)`, `clip.info()`.

    Args:
        value: `{"bytes", "path"}` of a `Video(decode=False)` column, a path or an fsspec address, the images of a
            `List(Image())` column, or an array (T, H, W, 3).

    Raises:
        VideoError: If there is no clip, or it cannot be read; see its `problem`.
        ValueError: If the value is of another kind, such as a decoder of a `Video()` column.

    Example:
        >>> with open_clip(clips[0]["video"]) as clip:
        ...     len(clip), clip.read([0, 3]).shape
        (8, (2, 16, 16, 3))
    """
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 4):
        return _FrameList(value)
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (None, value)
    if content:
        return VideoFile(content, path or f"of {len(content)} bytes")
    if path is None or path == "":
        raise VideoError("missing", "None", "there is no clip")
    if isinstance(path, str):
        return VideoFile(path, path)
    raise ValueError(
        f"a {type(value).__name__} is no clip: cast the column with `dataset.cast_column(name, Video(decode=False))`"
    )


@dataclass(frozen=True)
class SampledClip:
    """The frames of a clip that make a sample.

    Args:
        frames, indices (`np.ndarray`): (T, H, W, 3) uint8, and (T,) int64, where they are among the clip's `length`.
        stored_size (`tuple[int, int]`): (height, width) of the clip's frames before they were resized.

    Example:
        >>> SampledClip(np.zeros((2, 8, 6, 3), np.uint8), np.array([1, 4]), 6, (240, 320)).size
        (8, 6)
    """

    frames: np.ndarray
    indices: np.ndarray
    length: int
    stored_size: Size

    @property
    def size(self) -> Size:
        return self.frames.shape[1], self.frames.shape[2]


def sample_clip(
    value: Any, sampler: FrameSampler | None, rng: np.random.Generator, size: Size | None = None
) -> SampledClip:
    """Reads the frames of a clip that a sampler takes, all of them where there is none.

    The clip is as [`open_clip`] takes it, `size` the (height, width) to which the frames are brought. One that is too
    short for the sampler, or cannot be read (a `VideoError`), is a ValueError.

    Example:
        >>> clip = sample_clip(clips[0]["video"], FrameSampler(4), np.random.default_rng(0))
        >>> clip.frames.shape, clip.indices
        ((4, 16, 16, 3), array([1, 3, 5, 7]))
    """
    with open_clip(value) as clip:
        indices = np.arange(len(clip)) if sampler is None else sampler.indices(len(clip), rng)
        return SampledClip(clip.read(indices, size), indices, len(clip), clip.stored_size)


def probe(value: Any) -> ClipInfo:
    """Returns the frame count, size and rate of a clip, and raises what [`open_clip`] does.

    Its first frame alone is decoded, for size and rotation (all of them where a file has no usable times).

    Example:
        >>> probe(encode_clip(np.zeros((5, 32, 64, 3), np.uint8), fps=10))
        ClipInfo(num_frames=5, height=32, width=64, fps=10.0)
    """
    with open_clip(value) as clip:
        return clip.info()


def sample_shape(
    row: Mapping[str, Any], image_column: str = IMAGE, video_column: str | None = None
) -> tuple[int, int, int]:
    """Returns (T, height, width) of a row's clip, or of its image with T = 1; its masks are T * height pixels high.

    Example:
        >>> sample_shape(rows[0]), sample_shape(clips[0], video_column="video")
        ((1, 16, 16), (8, 16, 16))
    """
    if video_column is None:
        return (1, *open_image(row.get(image_column)).size[::-1])
    clip = probe(row.get(video_column))
    return clip.num_frames, clip.height, clip.width


def probe_clips(dataset: Dataset, column: str = "video", *, decode: bool = False, **map_kwargs: Any) -> Dataset:
    """Says of each row what its clip holds, and what is wrong with it where it cannot be read.

    Returned is a dataset of as many rows: `num_frames`, `height`, `width`, `fps` (None where unknown), `problem` (None,
    or a [`~hf_pgg.data.video_file.VideoError`]'s `problem`) and `message`.

    Args:
        decode (`bool`): Whether every frame is decoded, which finds damage inside a file and frames of changing size,
            at the cost of reading the whole dataset.
        map_kwargs: Passed on to `Dataset.map` (`num_proc`, ...).

    Example:
        >>> broken = Dataset.from_dict({"video": [{"bytes": b"no video", "path": None}]})
        >>> probe_clips(broken)["problem"][:]
        ['unreadable']
    """
    as_stored = undecoded(dataset.select_columns([column]))
    kinds = {"num_frames": "int64", "height": "int64", "width": "int64", "fps": "float64"}
    kinds |= {"problem": "string", "message": "string"}
    map_kwargs["features"] = Features({name: Value(kind) for name, kind in kinds.items()})
    options = {"input_columns": column, "remove_columns": column, "fn_kwargs": {"decode": decode}}
    return as_stored.map(_probe_row, **options, **map_kwargs)


def _probe_row(value: Any, decode: bool) -> dict[str, Any]:
    nothing = {"num_frames": None, "height": None, "width": None, "fps": None}
    try:
        with open_clip(value) as clip:
            info = clip.info()
            for _ in clip.frames(np.arange(len(clip))) if decode else ():
                pass
    except VideoError as error:
        return {**nothing, "problem": error.problem, "message": str(error)}
    return {**vars(info), "problem": None, "message": None}


def encode_clip(frames: np.ndarray, fps: float = 25.0, crf: int = 18) -> dict[str, Any]:
    """Writes frames (T, H, W, 3) uint8 as the value of a `Video` column: an mp4 file (H.264, yuv420p).

    Lossy: at crf 18 a value moves by 2 to 3 of 255 on average, and colours run across the border of a mask. The bytes
    do not depend on the number of cores. Odd heights and widths are a ValueError.

    Example:
        >>> encode_clip(np.zeros((2, 16, 16, 3), np.uint8))["bytes"][4:8]
        b'ftyp'
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames are (T, H, W, 3) uint8, not {frames.shape} {frames.dtype}")
    if not len(frames) or frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"H.264 wants frames of even height and width, not {frames.shape[:3]}: crop or resize them")
    av = pyav()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return {"bytes": buffer.getvalue(), "path": None}
