"""Frame i of a clip is the i-th that a player shows, whatever the file; what cannot be read is named and counted."""

import gc
import io
import multiprocessing
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import fsspec
import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value, Video, load_dataset

from hf_pgg.data import video_file
from hf_pgg.data.frame_sampling import FrameSampler, dense_indices, uniform_indices
from hf_pgg.data.images import encode_png
from hf_pgg.data.video import encode_clip, open_clip, probe, probe_clips
from hf_pgg.data.video_file import VideoError

av = pytest.importorskip("av")

LENGTH, HEIGHT, WIDTH, GOP = 40, 32, 64, 10
CONTAINERS = [
    ("libx264", "mp4", {}),
    ("libx264", "mp4", {"x264-params": "open-gop=1:bframes=3"}),
    ("libx264", "matroska", {}),
    ("libx264", "mpegts", {}),
    ("libx264", "avi", {"x264-params": "bframes=2:b-adapt=0"}),
    ("libx264", "flv", {}),
    ("libx264", "h264", {"x264-params": "bframes=2:b-adapt=0"}),
    ("libx265", "mp4", {"x265-params": "log-level=none"}),
    ("libx265", "mpegts", {"x265-params": "log-level=none:open-gop=1"}),
    ("libvpx", "webm", {"b": "500k"}),
    ("libvpx-vp9", "webm", {"b": "500k", "lag-in-frames": "16"}),
    ("mpeg4", "avi", {"bf": "2"}),
    ("mpeg2video", "mpeg", {"bf": "2"}),
    ("mjpeg", "avi", {}),
    ("gif", "gif", {}),
]


def numbered(number, height=HEIGHT, width=WIDTH):
    """A frame whose eight vertical bars are the bits of its number."""
    bits = (number >> np.arange(8)) & 1
    return np.tile(np.repeat(30 + 190 * bits, width // 8)[None, :, None], (height, 1, 3)).astype(np.uint8)


def number_of(frame):
    bars = frame.reshape(frame.shape[0], 8, -1).mean((0, 2)) > 125
    return int((bars << np.arange(8)).sum())


def make(codec="libx264", container="mp4", options=(), *, length=LENGTH, size=(HEIGHT, WIDTH), times=None, **muxer):
    """The bytes of a clip of numbered frames. times: of each frame, in 1/25 s; `muxer` options need a real file."""
    pixels = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format=container, container_options=muxer) as out:
            stream = out.add_stream(codec, rate=25, options=dict(options))
            stream.height, stream.width, stream.pix_fmt = *size, pixels
            stream.codec_context.gop_size = GOP
            for i in range(length):
                frame = av.VideoFrame.from_ndarray(numbered(i, *size), format="rgb24")
                frame.pts, frame.time_base = (i if times is None else times[i]), Fraction(1, 25)
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this build of PyAV does not encode {codec}")
    return buffer.getvalue()


def remux(clip, change, container="mp4", **muxer):
    """The clip with each packet passed through `change(number, packet)`."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(clip)) as old, av.open(buffer, "w", format=container, container_options=muxer) as new:
        template = old.streams.video[0]
        stream = new.add_stream_from_template(template)
        for number, packet in enumerate(packet for packet in old.demux(template) if packet.size):
            packet = change(number, packet)
            packet.stream = stream
            new.mux(packet)
    return buffer.getvalue()


def stored(clip):
    return {"bytes": clip, "path": None}


def read_frames(value, indices, size=None):
    with open_clip(value) as clip:
        return clip.read(indices, size)


def numbers(value, indices):
    return [number_of(frame) for frame in read_frames(value, indices)]


def sound(cover=False):
    """A file of sound; with the image of its album, which is stored as a video stream."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16000)
        if cover:
            image = out.add_stream("mjpeg", rate=1)
            image.height, image.width, image.pix_fmt = 32, 64, "yuvj420p"
            image.disposition = av.stream.Disposition.attached_pic.value
            out.mux(image.encode(av.VideoFrame.from_ndarray(numbered(0), format="rgb24")))
            out.mux(image.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


def moved_to_front(clip):
    """An mp4 with its header first, as it is streamed: cut short, it still opens."""
    boxes, place = {}, 0
    while place < len(clip):
        size = int.from_bytes(clip[place : place + 4], "big")
        boxes[clip[place + 4 : place + 8]] = clip[place : place + size]
        place += size
    header = bytearray(boxes[b"moov"])
    table = header.index(b"stco") + 8  # offsets of the chunks: each moves by the header's length
    for i in range(int.from_bytes(header[table : table + 4], "big")):
        at = table + 4 + 4 * i
        offset = int.from_bytes(header[at : at + 4], "big") + len(header)
        header[at : at + 4] = offset.to_bytes(4, "big")
    return boxes[b"ftyp"] + bytes(header) + b"".join(b for n, b in boxes.items() if n not in (b"ftyp", b"moov"))


def damaged(clip):
    """The clip with a stretch in the middle of its data overwritten."""
    middle = len(clip) // 3
    return clip[:middle] + bytes(range(200, 255)) + clip[middle + 55 :]


@pytest.fixture(scope="module")
def clip():
    return make()


# ---------------------------------------------------------------------------------------------- exact frames


@pytest.mark.parametrize(("codec", "container", "options"), CONTAINERS)
def test_frames_are_exact_in_every_container(codec, container, options):
    value = stored(make(codec, container, options))
    rng = np.random.default_rng(0)
    with open_clip(value) as clip:
        assert len(clip) == LENGTH and clip.fps == 25
        for _ in range(5):
            indices = rng.integers(0, LENGTH, 6)
            assert [number_of(frame) for frame in clip.read(indices)] == indices.tolist()


def test_any_order_and_repeats(clip):
    assert numbers(stored(clip), [39, 0, 17, 17, 3]) == [39, 0, 17, 17, 3]


@pytest.fixture
def decoded(monkeypatch):
    """The times of the frames that files decode, as they come."""
    times, original = [], video_file.VideoFile._decoded

    def counting(self):
        for frame in original(self):
            times.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_file.VideoFile, "_decoded", counting)
    return times


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_only_the_groups_of_images_asked_for_are_decoded(container, decoded):
    value = stored(make("libx264", container, length=250))
    assert numbers(value, [249]) == [249] and len(decoded) <= 2 * GOP
    decoded.clear()
    assert numbers(value, [5, 127, 201]) == [5, 127, 201] and len(decoded) <= 6 * GOP


def test_a_very_long_clip_is_sampled_without_decoding_it(decoded):
    length = 15_000  # ten minutes
    value = stored(make("libx264", "mp4", {"preset": "ultrafast"}, length=length))
    with open_clip(value) as clip:
        indices = FrameSampler(16).indices(len(clip), np.random.default_rng(0))
        frames = clip.read(indices)
    assert len(clip) == length and indices[-1] > 14_000
    assert [number_of(frame) for frame in frames] == [index % 256 for index in indices]
    assert len(decoded) <= 16 * 2 * GOP


def test_recordings_joined_end_to_end_are_counted_from_the_start():
    """Times go back, here to fall between the earlier ones."""
    first = make("libx264", "mpegts", times=[2 * i for i in range(LENGTH)])
    second = make("libx264", "mpegts", {"bf": "0"}, times=[0, *range(3, 2 * LENGTH, 2)][:LENGTH], length=LENGTH - 1)
    joined = stored(first + second)
    assert probe(joined).num_frames == 2 * LENGTH - 1
    assert numbers(joined, [3, LENGTH - 1, LENGTH, LENGTH + 3]) == [3, LENGTH - 1, 0, 3]


def test_frames_at_one_time_are_counted_from_the_start():
    def shown_with_the_next(number, packet):
        packet.pts += packet.duration if number == 6 else 0
        return packet

    value = stored(remux(make("libx264", "matroska", {"bf": "0"}), shown_with_the_next, "matroska"))
    with open_clip(value) as clip:
        assert len(clip) == LENGTH and [number_of(frame) for frame in clip.read([4, 6, 7, 8, 30])] == [4, 6, 7, 8, 30]


def test_variable_rate(clip):
    value = stored(make(times=[i * i for i in range(LENGTH)]))
    assert numbers(value, [0, 1, 20, 39]) == [0, 1, 20, 39]
    assert probe(value).num_frames == LENGTH


def test_what_an_edit_list_cuts_is_not_counted(clip):
    """A recording trimmed without encoding it again: the packets are there, players do not show them."""

    def earlier(number, packet):
        shift = 15 * packet.time_base.denominator // 25
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        return packet

    trimmed = stored(remux(clip, earlier, avoid_negative_ts="disabled", use_editlist="1"))
    assert probe(trimmed).num_frames == LENGTH - 15
    assert numbers(trimmed, [0, 10, 24]) == [15, 25, 39]


def test_hidden_reference_frames_are_not_counted():
    def hide(number, packet):
        if number != 7:
            return packet
        content = bytearray(bytes(packet))
        content[0] &= ~0x10
        hidden = av.Packet(bytes(content))
        hidden.pts, hidden.dts, hidden.time_base, hidden.duration = (
            packet.pts,
            packet.dts,
            packet.time_base,
            packet.duration,
        )
        return hidden

    value = stored(remux(make("libvpx", "webm", {"b": "500k"}), hide, "webm"))
    assert probe(value).num_frames == LENGTH - 1
    assert numbers(value, [6, 7, 30]) == [6, 8, 31]


def test_a_single_frame():
    value = stored(make(length=1))
    assert probe(value).num_frames == 1 and numbers(value, [0]) == [0]


def test_an_upright_recording_is_turned():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25)
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV does not write rotations")
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        stream.set_display_rotation(-90)  # clockwise, as phones write
        image = np.zeros((32, 64, 3), np.uint8)
        image[:, :32] = 250
        out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    value = stored(buffer.getvalue())
    assert (probe(value).height, probe(value).width) == (64, 32)
    for frame in (read_frames(value, [0])[0], read_frames(value, [0], size=(64, 32))[0]):
        assert frame.shape == (64, 32, 3) and frame[:30].mean() > 240 and frame[34:].mean() < 10


def test_frames_are_resized_on_request(clip):
    frames = read_frames(stored(clip), [0, 7], size=(16, 48))
    assert frames.shape == (2, 16, 48, 3) and frames.dtype == np.uint8
    images = [encode_png(numbered(i)) for i in (0, 7)]
    close = np.abs(read_frames(images, [0, 1], size=(16, 48)).astype(int) - frames)
    assert close.mean() < 8


# ---------------------------------------------------------------------------------------------- kinds of columns


def test_every_kind_of_value_is_read(clip, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(clip)
    with fsspec.open("memory://clips/a.mp4", "wb") as file:
        file.write(clip)
    for value in (stored(clip), {"bytes": None, "path": str(path)}, str(path), "memory://clips/a.mp4"):
        assert numbers(value, [12]) == [12]
    frames = np.stack([numbered(i) for i in range(4)])
    for value in (frames, [encode_png(frame) for frame in frames]):
        assert (read_frames(value, [3, 1]) == frames[[3, 1]]).all()
        assert vars(probe(value)) == {"num_frames": 4, "height": HEIGHT, "width": WIDTH, "fps": None}


def test_folders_of_clips(clip, tmp_path):
    for label in ("jump", "run"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "a.mp4").write_bytes(clip)
    rows = load_dataset(
        "videofolder", data_dir=str(tmp_path / "data"), split="train", cache_dir=str(tmp_path / "cache")
    )
    rows = rows.cast_column("video", Video(decode=False))
    assert [numbers(row["video"], [5]) for row in rows] == [[5], [5]]
    assert rows.features["label"].names == ["jump", "run"]


def test_without_pyav_images_are_read_and_files_name_the_remedy(monkeypatch, clip):
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(read_frames([numbered(0)], [0])) == 1
    with pytest.raises(ImportError, match=r"pip install hf-pgg\[video\]"):
        read_frames(stored(clip), [0])


# ---------------------------------------------------------------------------------------------- what cannot be read


def two_sizes():
    return make("libx264", "h264") + make("libx264", "h264", size=(48, 64))


def test_a_playlist_named_mp4_opens_no_other_file(tmp_path):
    (tmp_path / "other.mp4").write_bytes(make())
    for name, text in (
        ("concat.mp4", "ffconcat version 1.0\nfile other.mp4\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match=f"{name}: it is not a readable video file"):
            open_clip(str(tmp_path / name))


@pytest.mark.parametrize(
    ("broken", "problem", "words"),
    [
        (lambda: None, "missing", "there is no clip"),
        (lambda: stored(None), "missing", "there is no clip"),
        (lambda: [], "empty", "no frame"),
        (lambda: stored(b"no video at all" * 99), "unreadable", "not a readable video file"),
        (lambda: "/nowhere/a.mp4", "unreadable", "clip /nowhere/a.mp4: .*No such file"),
        (lambda: stored(make()[:1500]), "unreadable", "not a readable"),
        (lambda: stored(sound()), "no video", "only sound"),
        (lambda: stored(sound(cover=True)), "no video", "only sound"),
        (lambda: stored(moved_to_front(make())[:-300]), "truncated", "states 40 frames, the file holds"),
        (lambda: stored(damaged(make())), "corrupt", "clip of [0-9]+ bytes"),
        (lambda: [encode_png(numbered(0)), stored(b"noise")], "corrupt", "frame 1"),
        (lambda: stored(two_sizes()), "changing size", "is 64x48, earlier ones 64x32"),
        (lambda: [numbered(0), numbered(0, 8, 8)], "changing size", "is 8x8, earlier ones 64x32"),
    ],
)
def test_a_bad_clip_is_named_with_its_problem_and_the_remedy(broken, problem, words):
    with pytest.raises(VideoError, match=words) as caught:
        value = broken()
        with open_clip(value) as clip:
            clip.read(np.arange(len(clip)))
    assert caught.value.problem == problem and str(caught.value).endswith(".")


def test_a_frame_that_the_decoder_marks_as_damaged_is_refused():
    """The decoder conceals some damage and goes on: the first such file of a few."""
    whole = make("libx264", "matroska")

    def is_marked(content):
        try:
            with av.open(io.BytesIO(content)) as container:
                return True in [frame.is_corrupt for frame in container.decode(video=0)]
        except av.FFmpegError:
            return False

    files = (whole[:place] + bytes(range(200, 230)) + whole[place + 30 :] for place in range(1500, len(whole), 60))
    content = next(content for content in files if is_marked(content))
    with pytest.raises(VideoError, match="is damaged"), open_clip(stored(content)) as clip:
        clip.read(np.arange(len(clip)))


def test_a_whole_file_with_its_header_first_is_read():
    """The control of the truncated one."""
    assert numbers(stored(moved_to_front(make())), [39]) == [39]


def test_frames_of_changing_size_are_brought_to_one():
    frames = read_frames(stored(two_sizes()), [0, LENGTH + 3], size=(32, 64))
    assert [number_of(frame) for frame in frames] == [0, 3]


def test_an_index_beyond_the_clip_is_refused(clip):
    for index in (LENGTH, -1):
        with pytest.raises(VideoError, match=f"frame {index} is asked for, of {LENGTH}"):
            read_frames(stored(clip), [0, index])
    with pytest.raises(ValueError, match="no frame is asked for"):
        read_frames(stored(clip), [])


def test_other_objects_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"a int is no clip: cast the column .*Video\(decode=False\)"):
        open_clip(7)


def test_bad_clips_are_counted_and_left_out(clip):
    clips = [clip, None, b"noise" * 50, sound(), moved_to_front(clip)[:-300], damaged(clip), clip]
    rows = Dataset.from_list(
        [{"clip": None if value is None else stored(value), "id": i} for i, value in enumerate(clips)],
        features=Features({"clip": Video(decode=False), "id": Value("int64")}),
    )
    found = probe_clips(rows, "clip", decode=True)
    assert Counter(found["problem"]) == Counter(
        {None: 2, "missing": 1, "unreadable": 1, "no video": 1, "truncated": 1, "corrupt": 1}
    )
    assert found[0] == {"num_frames": 40, "height": 32, "width": 64, "fps": 25.0, "problem": None, "message": None}
    usable = rows.select([i for i, problem in enumerate(found["problem"]) if problem is None])
    assert usable["id"] == [0, 6]
    assert probe_clips(rows, "clip")["problem"][5] is None  # damage inside shows in decoding only
    assert probe_clips(rows, "clip", decode=True, num_proc=2)[:] == found[:]


def test_a_closed_clip_leaves_no_threads_for_which_a_forked_worker_would_wait(clip):
    """The garbage of the parent is collected in the worker, too, where the parent's threads do not run."""
    gc.collect()
    gc.disable()
    try:
        with open_clip(stored(clip)) as opened:
            opened.read([0, 1])
        opened.itself = opened
        del opened
        worker = multiprocessing.get_context("fork").Process(target=gc.collect)
        worker.start()
        worker.join(60)
        assert worker.exitcode == 0
    finally:
        worker.kill()
        gc.enable()


def test_lists_of_images_are_probed_as_they_are_stored():
    rows = Dataset.from_dict(
        {"video": [[encode_png(numbered(0))] * 3, [encode_png(numbered(0)), stored(b"noise")]]},
        features=Features({"video": List(Image())}),
    )
    assert probe_clips(rows, decode=True)["problem"] == [None, "corrupt"]


# ---------------------------------------------------------------------------------------------- sampling


def test_uniform_takes_the_middles_of_equal_segments():
    assert uniform_indices(10, 5).tolist() == [1, 3, 5, 7, 9]
    assert uniform_indices(8, 8).tolist() == list(range(8))
    assert uniform_indices(9, 1).tolist() == [4]
    assert uniform_indices(3, 6).tolist() == [0, 0, 1, 1, 2, 2]
    long = uniform_indices(10**9, 7)
    assert (np.diff(long) >= 10**9 // 7).all() and long[0] + long[-1] == pytest.approx(10**9, abs=2)


def test_dense_takes_the_middle_run():
    assert dense_indices(10, 4).tolist() == [3, 4, 5, 6]
    assert dense_indices(10, 4, 3).tolist() == [0, 3, 6, 9]
    assert dense_indices(10, 3, 2, start=5).tolist() == [5, 7, 9]
    with pytest.raises(ValueError, match="need a clip of 13 frames, this one has 10: take fewer"):
        dense_indices(10, 5, 3)
    assert dense_indices(10, 5, 3, hold_last=True).tolist() == [0, 3, 6, 9, 9]


def test_windows_start_everywhere_they_fit():
    rng = np.random.default_rng(0)
    drawn = np.array([FrameSampler(3, "window", 2).indices(10, rng) for _ in range(300)])
    assert sorted(set(drawn[:, 0].tolist())) == [0, 1, 2, 3, 4, 5] and (np.diff(drawn) == 2).all()
    assert FrameSampler(4, "window", hold_last=True).indices(2, rng).tolist() == [0, 1, 1, 1]
    with pytest.raises(ValueError, match="need a clip of 4 frames, this one has 2"):
        FrameSampler(4, "window").indices(2, rng)


def test_samplers_check_their_settings():
    rng = np.random.default_rng(0)
    assert FrameSampler(4).indices(40, rng).tolist() == [5, 15, 25, 35]
    assert FrameSampler(4, "dense", 2).indices(40, rng).tolist() == [16, 18, 20, 22]
    first = FrameSampler(4, "window", 2).indices(40, np.random.default_rng(5))
    assert (first == dense_indices(40, 4, 2, start=int(np.random.default_rng(5).integers(34)))).all()
    for wrong in ({"mode": "all"}, {"num_frames": 0}, {"stride": 2}, {"mode": "dense", "stride": 0}):
        with pytest.raises(ValueError):
            FrameSampler(**wrong)
    with pytest.raises(ValueError, match="length 0"):
        uniform_indices(0, 3)


# ---------------------------------------------------------------------------------------------- writing


def test_an_encoded_clip_is_close_and_the_same_each_time(tmp_path):
    frames = np.stack([numbered(i) for i in range(12)])
    value = encode_clip(frames, fps=12.5)
    assert encode_clip(frames, fps=12.5) == value
    assert vars(probe(value)) == {"num_frames": 12, "height": HEIGHT, "width": WIDTH, "fps": 12.5}
    assert np.abs(read_frames(value, np.arange(12)).astype(int) - frames).mean() < 4
    path = tmp_path / "a.mp4"
    path.write_bytes(value["bytes"])
    assert numbers(str(path), [11]) == [11]


def test_what_h264_does_not_take_is_refused():
    with pytest.raises(ValueError, match="even height and width"):
        encode_clip(np.zeros((2, 5, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8, not"):
        encode_clip(np.zeros((2, 4, 4, 3)))


# ---------------------------------------------------------------------------------------------- real clips


@pytest.fixture(scope="module")
def jhmdb(shared_data):
    folder = Path(shared_data) / "jhmdb21-160p"
    if not folder.exists():
        pytest.skip("the J-HMDB clips are not here")
    return Dataset.from_parquet(str(folder / "test.parquet"), keep_in_memory=True)


def test_real_clips_have_the_frames_that_their_table_states(jhmdb):
    found = probe_clips(jhmdb.select(range(0, len(jhmdb), 4)))
    assert set(found["problem"]) == {None}
    assert found["num_frames"] == jhmdb.select(range(0, len(jhmdb), 4))["num_frames"]


def test_real_frames_equal_those_of_a_whole_decode(jhmdb):
    for row in jhmdb.select(range(0, len(jhmdb), 60)):
        with av.open(io.BytesIO(row["video"]["bytes"])) as container:
            whole = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        indices = uniform_indices(len(whole), 8)
        assert np.abs(read_frames(row["video"], indices).astype(int) - whole[indices]).max() <= 2
