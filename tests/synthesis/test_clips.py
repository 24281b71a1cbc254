"""What the methods of clips share: storage, sampling, masks and boxes, and what they refuse."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Video

from hf_pgg import ProvenanceError, add_provenance
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import decode_mask, encode_mask
from hf_pgg.data.validation import validate_row
from hf_pgg.data.video import probe
from hf_pgg.synthesis.actor_composite import ActorComposite
from hf_pgg.synthesis.tilemix import TileMix
from hf_pgg.synthesis.videomix import VideoMix
from tests.synthesis.conftest import COUNT, LABEL, actor_masks, frames_of, masks_of


def test_mixing_keeps_the_actors_masks(guided_clips):
    for row in VideoMix(source=guided_clips, seed=2).map(guided_clips):
        green = frames_of(row)[..., 1] == 255
        assert (green == (sum(masks_of(row)) == 255)).all()
    for row in TileMix(source=guided_clips, seed=2, grid=(2, 1)).map(guided_clips):
        inside = sum(mask.astype(int) for mask in masks_of(row)) > 127
        assert (inside == (frames_of(row)[..., 2] < frames_of(row)[..., 0] / 2)).mean() > 0.99


@pytest.mark.parametrize(
    ("storage", "feature", "error"), [("jpeg", List(Image()), 4), ("mp4", Video(decode=False), 12)]
)
def test_lossy_storage_is_close_and_its_masks_are_exact(clips, storage, feature, error):
    exact = VideoMix(source=clips, seed=1).map(clips)
    lossy = VideoMix(source=clips, seed=1, storage=storage).map(clips)
    assert lossy.features["video"] == feature
    for one, other in zip(exact, lossy, strict=True):
        assert np.abs(frames_of(one).astype(int) - frames_of(other)).mean() < error
        assert all((a == b).all() for a, b in zip(masks_of(one), masks_of(other), strict=True))
        validate_row(other, 0, 3, video_column="video")


def test_size_and_sampler_are_the_samples(clips):
    method = VideoMix(source=clips, size=(16, 20), sampler=FrameSampler(4, "dense", 2))
    row = method.map(clips)[0]
    assert frames_of(row).shape == (4, 16, 20, 3) and masks_of(row, 4)[0].shape == (4, 16, 20)
    assert probe(row["video"]).num_frames == 4


def test_mixed_clips_can_be_mixed_again(clips):
    tiles = TileMix(source=clips, seed=1).map(clips)
    twice = VideoMix(source=tiles, seed=1).map(tiles)[0]
    assert len(twice["labels"]) == 4 and sum(twice["label_weights"]) == pytest.approx(1)
    assert (sum(mask.astype(int) for mask in masks_of(twice)) == 255).all()


def test_masks_and_boxes_of_clips_become_provenance(clips, guided_clips):
    boxed = add_provenance(clips, box_column="boxes", box_format="xywh", video_column="video")
    for i in range(COUNT):
        masks = actor_masks(i, 8 + i % 5)
        for rows in (guided_clips, boxed):
            assert (decode_mask(rows[i]["provenance"][0], len(masks)) == 255 * masks).all()
            validate_row(rows[i], i, 3, video_column="video")
    assert guided_clips.features["video"] == clips.features["video"]


def test_boxes_of_clips_are_read_frame_by_frame(clips):
    """Each in its format; what is no box of its frame, or of some frames only, is named; none at all is unknown."""
    (width, height), boxes = (32, 24), clips[0]["boxes"]
    scale = [width, height, width, height]
    shares = [[float(value) / side for value, side in zip(box, scale, strict=True)] for box in boxes]
    ends = [[x, y, x + w, y + h] for x, y, w, h in boxes]
    expected = add_provenance(clips.select([0]), box_column="boxes", box_format="xywh", video_column="video")
    for name, values in (("xywh_normalized", shares), ("xyxy", ends)):
        own = clips.select([0]).remove_columns("boxes").add_column("boxes", [values])
        known = add_provenance(own, box_column="boxes", box_format=name, video_column="video")
        assert known["provenance"][0][0].tobytes() == expected["provenance"][0][0].tobytes()
    last = len(boxes) - 1
    for change, problem in (
        ([*boxes[:-1], [30.0, 0.0, 9.0, 9.0]], f"frame {last}: box .* leaves the image of 32x24"),
        ([*boxes[:-1], [3.0, 0.0, float("nan"), 9.0]], f"frame {last}: box .* holds NaN"),
        ([*boxes[:-1], []], f"frame {last} has no box, frame 0 has one"),
        ([*boxes, boxes[-1]], f"{last + 2} boxes for a clip of {last + 1} frames"),
    ):
        bad = clips.select([0]).remove_columns("boxes").add_column("boxes", [change])
        with pytest.raises((ValueError, ProvenanceError), match=f"row 0, column 'boxes': .*{problem}"):
            add_provenance(bad, box_column="boxes", box_format="xywh", video_column="video")
    for unknown in (None, [], [[]] * len(boxes)):
        rows = clips.select([0]).map(lambda _, own=unknown: {"boxes": own}, features=clips.features)
        assert add_provenance(rows, box_column="boxes", video_column="video")["provenance"][:] == [None]


def test_actors_are_cut_out_by_boxes(clips, photos):
    """A box is a mask of its pixels: what it encloses comes from the clip, what lies around from the scene."""
    boxed = add_provenance(clips, box_column="boxes", box_format="xywh", video_column="video")
    method = ActorComposite(backgrounds=photos, flip=0, feather=0)
    row = method.map(boxed)[0]
    boxes = clips[0]["boxes"]
    for mask, (x, y, w, h) in zip(masks_of(row, len(boxes))[0], boxes, strict=True):
        assert mask.sum() == 255 * w * h and (mask[int(y) : int(y + h), int(x) : int(x + w)] == 255).all()


def test_boxes_and_masks_of_another_length_are_refused(clips):
    short = clips.map(lambda row: {"boxes": row["boxes"][:4]})
    with pytest.raises(ProvenanceError, match="row 0, column 'boxes': 4 boxes for a clip of 8 frames"):
        add_provenance(short, box_column="boxes", box_format="xywh", video_column="video")
    row = dict(add_provenance(clips, mask_column="masks", video_column="video")[0])
    row["provenance"] = [encode_mask(actor_masks(0, 7))]
    with pytest.raises(ProvenanceError, match="row 3, column 'provenance': mask of 32x168 for an image of 32x192"):
        validate_row(row, 3, 3, video_column="video")
    with pytest.raises(ProvenanceError, match="row 3, column 'video': clip None: there is no clip"):
        validate_row({**row, "video": None}, 3, 3, video_column="video")


def broken(clips):
    """The clips, the third unreadable."""
    rows = [dict(row) for row in clips]
    rows[2]["video"] = [{"bytes": b"noise", "path": None}]
    return Dataset.from_list(rows, features=clips.features)


def test_a_bad_clip_is_named_by_its_row_in_the_dataset_or_in_the_pool(clips):
    with pytest.raises(ProvenanceError, match=r"row 2, column 'video': clip of 1 images: frame 0.*VideoMix failed"):
        VideoMix(source=clips).map(broken(clips))
    with pytest.raises(ProvenanceError, match=r"row 2 of the pool, column 'video'.*`probe_clips` finds"):
        VideoMix(source=broken(clips)).map(clips)


def test_a_clip_shorter_than_the_sample_is_named(clips):
    sampler = FrameSampler(9, "dense")
    with pytest.raises(ProvenanceError, match=r"row 0, column 'video'.*need a clip of 9 frames, this one has 8"):
        TileMix(source=clips, sampler=sampler).map(clips)
    held = TileMix(source=clips, sampler=FrameSampler(9, "dense", hold_last=True)).map(clips)
    assert len(frames_of(held[0])) == 9


def test_provenance_of_another_length_is_named(guided_clips):
    def shorten(_, i):
        return {"provenance": [encode_mask(actor_masks(i, 7))]}

    with pytest.raises(ProvenanceError, match=r"row 0.*column 'provenance': 8 masks of 32x21 for frames of 32x24"):
        VideoMix(source=guided_clips).map(guided_clips.map(shorten, with_indices=True))


def test_columns_that_decode_whole_clips_are_refused(clips):
    whole = Dataset.from_dict(
        {"video": [{"bytes": b"0", "path": None}] * 2, "label": [0, 1]}, features=Features(video=Video(), label=LABEL)
    )
    with pytest.raises(ValueError, match=r"of `source` decodes whole clips: .*cast_column\('video', Video\(decode"):
        VideoMix(source=whole)
    with pytest.raises(ValueError, match="of `dataset` decodes whole clips"):
        VideoMix(source=clips).map(whole)
    with pytest.raises(ValueError, match="of `backgrounds` decodes whole clips"):
        ActorComposite(backgrounds=whole)


def test_settings_are_checked(clips):
    wrong = {
        "mixes two clips: its source has 1": lambda: VideoMix(source=clips.select([0])),
        "mode 'frames' is none of": lambda: VideoMix(source=clips, mode="frames"),
        "storage 'gif' is none of": lambda: VideoMix(source=clips, storage="gif"),
        "does not hold two clips": lambda: TileMix(source=clips, grid=(1, 1)),
        "needs clips in 'video' or images in 'image'": lambda: ActorComposite(
            backgrounds=clips.remove_columns("video")
        ),
        "`backgrounds`: column 'name' is Value.*, not a ClassLabel": lambda: ActorComposite(
            backgrounds=clips, background_column="name"
        ),
        "row_id_column": lambda: VideoMix(source=clips).map(clips.to_iterable_dataset()),
        "set `video_column`": lambda: VideoMix(source=clips)({"clip": [1]}, [0]),
    }
    for words, make in wrong.items():
        with pytest.raises(ValueError, match=words):
            make()


def test_real_actors_on_real_scenes_keep_the_contract(shared_data):
    pytest.importorskip("av")
    folder = Path(shared_data) / "jhmdb21-160p"
    if not folder.exists():
        pytest.skip("the J-HMDB clips are not here")
    rows = Dataset.from_parquet(str(folder / "test.parquet"), keep_in_memory=True).select(range(0, 240, 60))
    for method in (ActorComposite(backgrounds=rows, mask_column="masks"), VideoMix(source=rows, storage="mp4")):
        for i, row in enumerate(method.map(rows)):
            validate_row(row, i, 21, video_column="video")
            assert probe(row["video"]).num_frames == 8
