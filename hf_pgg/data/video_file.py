"""A clip in a video file, read frame-exactly with PyAV (`pip install hf-pgg[video]`).

The packets of the file are listed once, without decoding: their presentation times, sorted, are the frames. A frame is
then reached by seeking to the keyframe before it, so that only the groups of images that are asked for are decoded,
and frame i is the i-th that a player shows, whatever the rate. A file without usable times (a raw stream, an AVI with
reordered frames, recordings joined end to end) is counted from its start instead.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import fsspec
import numpy as np
from numpy.typing import ArrayLike

Size = tuple[int, int]
# a closed list: playlists (HLS, concat), which open other files and addresses, are refused whatever their name says
_CONTAINERS = {"format_whitelist": "mov,webm,avi,mpegts,mpeg,mpegvideo,mjpeg,m4v,h264,hevc,obu,ivf,ogg,flv,asf,mxf,gif"}


class VideoError(ValueError):
    """A clip that cannot be read as it is. The message names the clip and the remedy.

    Attributes:
        problem (`str`): `"missing"`, `"unreadable"` (no video file, or an unknown codec), `"no video"` (sound only),
            `"empty"`, `"truncated"`, `"corrupt"`, `"changing size"` or `"out of range"`.

    Example:
        >>> VideoError("empty", "a.mp4", "it has no frame")
        VideoError('clip a.mp4: it has no frame. Remove the row.')
    """

    def __init__(self, problem: str, name: str, detail: str, remedy: str = "Remove the row."):
        super().__init__(f"clip {name}: {detail}. {remedy}")
        self.problem = problem


@dataclass(frozen=True)
class ClipInfo:
    """Frames, height and width in pixels (after rotation), mean frames a second (None for a list of images).

    Example:
        >>> ClipInfo(num_frames=40, height=240, width=320, fps=25.0).fps
        25.0
    """

    num_frames: int
    height: int
    width: int
    fps: float | None


class Clip(AbstractContextManager["Clip"], ABC):
    """An open clip: `len(clip)` frames, read by index. Closed by `with`.

    Attributes:
        name (`str`): How errors name it.
        fps (`float`, *optional*): Mean frames a second; None for a list of images.
        stored_size (`tuple[int, int]`): (height, width) of the frame read last, turned upright, before any resizing.

    Example:
        >>> from hf_pgg.data.video import open_clip
        >>> with open_clip(clips[0]["video"]) as clip:
        ...     [(index, frame.shape) for index, frame in clip.frames([5, 2])]
        [(2, (16, 16, 3)), (5, (16, 16, 3))]
    """

    name: str
    fps: float | None = None
    stored_size: Size

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _decode(self, wanted: np.ndarray, size: Size | None) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the frames at ascending, distinct indices, each as (index, (H, W, 3) uint8)."""

    def frames(self, indices: ArrayLike, size: Size | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yields index and frame (H, W, 3) uint8, ascending, each once. Arguments and errors are those of `read`."""
        wanted = np.unique(np.asarray(indices, dtype=np.int64))
        if not wanted.size:
            raise ValueError("no frame is asked for: `indices` is empty")
        if wanted[0] < 0 or wanted[-1] >= len(self):
            beyond = wanted[0] if wanted[0] < 0 else wanted[-1]
            detail, remedy = f"frame {beyond} is asked for, of {len(self)}", "Sample with the clip's own frame count."
            raise VideoError("out of range", self.name, detail, remedy)
        shape: tuple[int, ...] | None = None
        for index, frame in self._decode(wanted, size):
            shape = shape or frame.shape
            if frame.shape != shape:
                detail = f"frame {index} is {frame.shape[1]}x{frame.shape[0]}, earlier ones {shape[1]}x{shape[0]}"
                raise VideoError("changing size", self.name, detail, "Give the `size` to which frames are brought.")
            yield index, frame

    def read(self, indices: ArrayLike, size: Size | None = None) -> np.ndarray:
        """Reads the frames at `indices` (any order, repeats allowed) as (T, H, W, 3) uint8.

        `size` is the (height, width) to which frames are resized, antialiased bilinear. A frame that is corrupt or out
        of range is a VideoError, and so are differing sizes where no `size` is given.
        """
        order = np.asarray(indices, dtype=np.int64)
        found = dict(self.frames(order, size))
        return np.stack([found[index] for index in order.tolist()])

    def info(self) -> ClipInfo:
        """See [`~hf_pgg.data.video.probe`]."""
        _, first = next(self.frames([0]))
        return ClipInfo(len(self), first.shape[0], first.shape[1], self.fps)


class _Packet(NamedTuple):
    """What is kept of a packet: its times in units of the stream, and whether its frame is a keyframe and is shown."""

    time: int | None
    decode_time: int | None
    duration: int
    is_key: bool
    is_shown: bool


class VideoFile(Clip):
    """A video file or its bytes. One thread: data loaders and `map(num_proc=)` already use a process a core.

    Args:
        source (`bytes` or `str`): The file's content, path, or fsspec address (`hf://...`, `zip://...`).

    Raises:
        VideoError: If it is no video, holds no frame, or fewer than its header states; the message tells its `name`.

    Example:
        >>> from hf_pgg.data.video import encode_clip
        >>> with VideoFile(encode_clip(np.zeros((6, 16, 16, 3), np.uint8))["bytes"], "black") as clip:
        ...     len(clip), clip.fps, clip.read([5, 0]).shape
        (6, 25.0, (2, 16, 16, 3))
    """

    def __init__(self, source: bytes | str, name: str):
        self.name, self._source, self._av = name, source, pyav()
        self._scaler: Any = None
        self._container: Any = None
        self._file: BinaryIO | None = None
        try:
            self._start()
            self.fps = float(self._stream.average_rate) if self._stream.average_rate else None
            self._list_frames(self._packets())
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exception: object) -> None:
        self._scaler = None  # it has threads: freed as garbage in a forked worker, it would wait for them for ever
        if self._container is not None:
            self._container.close()
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return self._length

    def _start(self) -> None:
        """Opens the file (again) at its first packet."""
        self.__exit__()
        self._scaler = self._av.video.reformatter.VideoReformatter()
        try:
            if isinstance(self._source, bytes):
                self._file = io.BytesIO(self._source)
            elif "://" in self._source:
                self._file = fsspec.open(self._source, "rb").open()
            self._container = self._av.open(self._file or self._source, container_options=_CONTAINERS)
        except (self._av.FFmpegError, OSError) as error:
            detail = f"it is not a readable video file ({error.strerror or error})"
            raise VideoError("unreadable", self.name, detail) from error
        cover = self._av.stream.Disposition.attached_pic  # an album's cover is no video
        streams = [stream for stream in self._container.streams.video if not stream.disposition & cover]
        if not streams:
            raise VideoError("no video", self.name, "it has no video stream, only sound")
        self._stream = streams[0]
        if self._stream.codec_context is None:
            raise VideoError("unreadable", self.name, "its codec is unknown", "Convert it to H.264.")
        self._stream.codec_context.thread_count = 1

    def _packets(self) -> list[_Packet]:
        is_vp8 = self._stream.codec_context.name == "vp8"
        try:
            packets = [
                _Packet(p.pts, p.dts, p.duration or 0, p.is_keyframe, not (p.is_discard or (is_vp8 and _is_hidden(p))))
                for p in self._container.demux(self._stream)
                if p.size
            ]
        except self._av.FFmpegError as error:
            raise VideoError("corrupt", self.name, f"its packets cannot be read ({error.strerror})") from error
        if not packets:
            raise VideoError("empty", self.name, "it has no frame")
        stated = self._stream.frames
        if len(packets) < stated and not self._is_edited(packets):
            detail = f"its header states {stated} frames, the file holds {len(packets)}"
            raise VideoError("truncated", self.name, detail, "Fetch it anew, or remove the row.")
        return packets

    def _is_edited(self, packets: list[_Packet]) -> bool:
        """Whether an mp4's edit list leaves the missing frames out on purpose: what remains lasts as long as stated."""
        if "mp4" not in self._container.format.name or None in (self._stream.start_time, self._stream.duration):
            return False
        end = max(packet.time + packet.duration for packet in packets if packet.time is not None)
        half_a_frame = self._stream.duration / self._stream.frames / 2
        return bool(end > self._stream.start_time + self._stream.duration - half_a_frame)

    def _list_frames(self, packets: list[_Packet]) -> None:
        """Sets the frame count and, where the packets' times are of use, the times of frames and keyframes."""
        times = [packet.time for packet in packets]
        decode_times = [packet.decode_time for packet in packets if packet.decode_time is not None]
        # AVI stores no presentation times; times that repeat or go back belong to joined recordings
        guessed = "avi" in self._container.format.name and self._stream.codec_context.has_b_frames
        self._is_timed = not (
            guessed or None in times or len(set(times)) < len(times) or decode_times != sorted(decode_times)
        )
        if self._is_timed:
            keys = sorted((p.time, p.time if p.decode_time is None else p.decode_time) for p in packets if p.is_key)
            self._keys = np.array(keys, np.int64).reshape(-1, 2)
            shown = np.sort([packet.time for packet in packets if packet.is_shown])
            # what precedes the first keyframe cannot be decoded
            self._times = shown[shown >= self._keys[0, 0]] if keys else shown[:0]
            self._length = len(self._times)
        else:
            self._length = sum(1 for _ in self._decoded_from_start())
        if not self._length:
            raise VideoError("empty", self.name, "it has no frame that can be decoded")

    def _decode(self, wanted: np.ndarray, size: Size | None) -> Iterator[tuple[int, np.ndarray]]:
        if not self._is_timed:
            yield from self._decode_by_count(wanted, size)
            return
        times = self._times[wanted]
        key = np.searchsorted(self._keys[:, 0], times, side="right") - 1  # the keyframe from which each is decoded
        for k in np.unique(key):
            index_at = dict(zip(times[key == k].tolist(), wanted[key == k].tolist(), strict=True))
            for frame in self._decoded_from(*self._keys[k].tolist()):
                if frame.pts in index_at:
                    index = index_at.pop(frame.pts)
                    yield index, self._to_array(index, frame, size)
                if not index_at:
                    break
            else:
                raise VideoError("corrupt", self.name, f"frame {min(index_at.values())} cannot be decoded")

    def _decode_by_count(self, wanted: np.ndarray, size: Size | None) -> Iterator[tuple[int, np.ndarray]]:
        chosen = set(wanted.tolist())
        for index, frame in enumerate(self._decoded_from_start()):
            if index in chosen:
                yield index, self._to_array(index, frame, size)
            if index == wanted[-1]:
                break

    def _decoded_from(self, time: int, decode_time: int) -> Iterator[Any]:
        """The frames from the keyframe shown at `time` on. Containers seek by one of its two times (MPEG streams by the
        second); where neither lands on the keyframe, from the first frame on."""
        for place in (time, decode_time):
            self._container.seek(place, stream=self._stream)
            frames = self._decoded()
            try:
                first = next((frame for frame in frames if frame.pts is not None and frame.pts >= time), None)
            except VideoError:  # landed amid a group of images, which is not the file's fault
                continue
            if first is not None and first.pts == time:
                return chain([first], frames)
        return self._decoded_from_start()

    def _decoded_from_start(self) -> Iterator[Any]:
        self._start()
        yield from self._decoded()

    def _decoded(self) -> Iterator[Any]:
        try:
            yield from self._container.decode(self._stream)
        except self._av.FFmpegError as error:
            raise VideoError("corrupt", self.name, f"a frame cannot be decoded ({error.strerror})") from error

    def _to_array(self, index: int, frame: Any, size: Size | None) -> np.ndarray:
        if frame.is_corrupt:
            raise VideoError("corrupt", self.name, f"frame {index} is damaged")
        turns = round(frame.rotation / 90) % 4  # a phone held upright records lying frames
        order = -1 if turns % 2 else 1
        stored = (frame.height, frame.width)
        self.stored_size = (stored[::order][0], stored[::order][1])
        height, width = stored if size is None else size[::order]
        image = self._scaler.reformat(frame, width, height, "rgb24", interpolation="BILINEAR").to_ndarray()
        return np.rot90(image, turns)


def _is_hidden(vp8_packet: Any) -> bool:
    """Whether a VP8 packet, which has a time, is a reference frame that is never shown (RFC 6386, section 9.1)."""
    return not bytes(vp8_packet)[0] & 0x10


def pyav() -> ModuleType:
    """Imports PyAV, the optional dependency.

    Raises:
        ImportError: If it is not installed, with the command that installs it.

    Example:
        >>> pyav().__name__
        'av'
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("video files are read and written with PyAV: `pip install hf-pgg[video]`") from error
    return av
