"""Every voxel of a mixed clip against the source that its masks claim, and the same result for any way of walking."""

from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Video
from scipy.ndimage import binary_erosion

from hf_pgg import MaskAblation, ProvenanceError, add_provenance
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import decode_mask, encode_mask, encode_png, resize_frames
from hf_pgg.data.validation import validate_row
from hf_pgg.data.video import probe
from hf_pgg.synthesis.actor_composite import ActorComposite, read_masks
from hf_pgg.synthesis.clips import SampledClip
from hf_pgg.synthesis.pasting import blend, crop_to_aspect, paste_window
from hf_pgg.synthesis.tilemix import TileMix, _tile_places
from hf_pgg.synthesis.videomix import VideoMix, _videomix_cuboid
from tests.synthesis.conftest import COUNT, GREY, HEIGHT, LABEL, WIDTH, actor_masks, frames_of


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    images = [encode_png(np.full((20 + i, 40, 3), 5 + i, np.uint8)) for i in range(4)]
    rows = {"image": images, "kind": rng.integers(0, 2, 4).tolist()}
    return Dataset.from_dict(rows, features=Features(image=Image(), kind=ClassLabel(names=["sea", "forest"])))


def masks_of(row, length=8):
    return [decode_mask(mask, length) for mask in row["provenance"]]


# ---------------------------------------------------------------------------------------------- voxels


@pytest.mark.parametrize("mode", ["spatial", "temporal", "spatiotemporal"])
def test_videomix_takes_every_voxel_from_the_clip_its_mask_names(clips, mode):
    rows = VideoMix(source=clips, mode=mode, seed=3).map(clips)
    shares = []
    for i, row in enumerate(rows):
        frames = frames_of(row)
        ours, theirs = (mask == 255 for mask in masks_of(row))
        assert frames.shape == (8, HEIGHT, WIDTH, 3) and (ours ^ theirs).all()
        assert set(np.unique(frames[ours][:, 0])) <= {GREY[i]}
        partner = np.unique(frames[theirs][:, 0])
        assert len(partner) <= 1
        assert row["labels"] == [clips[i]["label"], row["labels"][1]]
        if len(partner):
            assert row["labels"][1] == np.flatnonzero(partner[0] == GREY)[0] % 3
        assert row["label_weights"] == pytest.approx([ours.mean(), theirs.mean()], abs=1e-6)
        shares.append(theirs.mean())
        if mode == "spatial":
            assert (theirs == theirs[:1]).all()
        if mode == "temporal":
            assert (theirs == theirs[:, :1, :1]).all()
    assert 0.1 < np.mean(shares) < 0.9


@pytest.mark.parametrize("mode", ["spatial", "temporal", "spatiotemporal"])
def test_a_cuboid_has_the_share_drawn_where_it_fits_and_is_clipped_elsewhere(mode):
    shape = (64, 80, 96)
    middle = (32, 40, 48)
    for lam in (0.2, 0.5, 0.9):
        mixed, mask = paste_window(
            np.zeros((*shape, 3), np.uint8),
            np.ones((*shape, 3), np.uint8),
            _videomix_cuboid(shape, lam, middle, mode),
        )
        assert mask.mean() == pytest.approx(1 - lam, abs=0.02) and (mixed == mask[..., None]).all()
        corner = _videomix_cuboid(shape, lam, (0, 79, 0), mode)
        assert all(0 <= span.start <= span.stop <= length for span, length in zip(corner, shape, strict=True))
    assert _videomix_cuboid(shape, 0.0, middle, mode) == (slice(0, 64), slice(0, 80), slice(0, 96))
    none = _videomix_cuboid(shape, 1.0, middle, mode)
    assert any(span.start == span.stop for span in none)


def test_tiles_cover_the_image_once():
    for grid in ((1, 2), (2, 2), (3, 1), (2, 5)):
        covered = np.zeros((23, 31), int)
        for rows, columns in _tile_places(23, 31, grid):
            covered[rows, columns] += 1
        assert (covered == 1).all()


def test_every_tile_holds_a_whole_clip(clips):
    rows = TileMix(source=clips, grid=(1, 2), seed=1).map(clips)
    own = []
    for i, row in enumerate(rows):
        frames, masks = frames_of(row), masks_of(row)
        greys = [np.unique(frames[mask == 255][:, 0]) for mask in masks]
        assert (sum(mask.astype(int) for mask in masks) == 255).all()
        assert [len(grey) for grey in greys] == [1, 1]
        assert row["labels"] == [np.flatnonzero(grey == GREY)[0] % 3 for grey in greys]
        assert GREY[i] in (greys[0][0], greys[1][0])
        assert row["label_weights"] == [0.5, 0.5]
        own.append(int(greys[1][0] == GREY[i]))
        # the actor, 8 of 32 columns wide, is there whole and half as wide
        actor = frames[0, :, : WIDTH // 2, 2] < GREY[0] / 2
        assert 2 <= actor.any(0).sum() <= 6 and actor.any(1).sum() == 12
    assert {0, 1} == set(own)


def test_weights_are_the_shares_of_uneven_tiles(clips):
    row = TileMix(source=clips, grid=(1, 3)).map(clips)[0]
    assert row["label_weights"] == pytest.approx([(mask == 255).mean() for mask in masks_of(row)])
    assert len(set(row["label_weights"])) == 2


def test_mixing_keeps_the_actors_masks(guided_clips):
    for row in VideoMix(source=guided_clips, seed=2).map(guided_clips):
        green = frames_of(row)[..., 1] == 255
        assert (green == (sum(masks_of(row)) == 255)).all()
    for row in TileMix(source=guided_clips, seed=2, grid=(2, 1)).map(guided_clips):
        inside = sum(mask.astype(int) for mask in masks_of(row)) > 127
        assert (inside == (frames_of(row)[..., 2] < frames_of(row)[..., 0] / 2)).mean() > 0.99


def test_an_actor_stands_on_another_scene(clips):
    rows = ActorComposite(backgrounds=clips, mask_column="masks", background_column="label", seed=4, feather=0).map(
        clips
    )
    assert rows.features["background"] == LABEL
    scenes = set()
    for i, row in enumerate(rows):
        frames, (mask,) = frames_of(row), masks_of(row)
        inside = mask == 255
        assert row["labels"] == [clips[i]["label"]] and row["label_weights"] == [1.0]
        assert (frames[inside] == (GREY[i], 255, 0)).all()
        assert inside.sum() == 8 * 12 * 8
        grey = np.unique(frames[~inside])
        assert len(grey) == 1  # the background's own actor is gone, to the last pixel
        assert row["background"] == np.flatnonzero(grey[0] == GREY)[0] % 3
        scenes.add(int(grey[0]))
    assert len(scenes) > 3


def test_what_the_masks_miss_of_a_background_actor_is_filled_too(clips):
    """Masks two pixels smaller than the actor on every side."""

    def erode(_, i):
        return {"masks": encode_mask(binary_erosion(actor_masks(i, 8 + i % 5), np.ones((1, 5, 5))))}

    pool = clips.map(erode, with_indices=True)
    for margin, colours in ((3, 1), (0, 2)):
        method = ActorComposite(backgrounds=pool, mask_column="masks", feather=0, margin=margin)
        sample = method.synthesize(clips[0], np.random.default_rng(0))
        assert min(len(np.unique(sample.image[sample.masks[0] == 0])), 2) == colours


def test_a_soft_edge_is_the_provenance(clips):
    own = frames_of(clips[0])
    row = ActorComposite(backgrounds=clips, mask_column="masks", feather=1.0, flip=0.0).map(clips)[0]
    frames, (mask,) = frames_of(row), masks_of(row)
    assert ((mask > 0) & (mask < 255)).any()
    alpha, grey = mask[..., None] / 255, frames[0, 0, -1, 0]
    assert np.abs(frames - (alpha * own + (1 - alpha) * grey)).max() <= 1.5


def test_an_actor_stands_on_a_still_scene(clips, scenes):
    method = ActorComposite(backgrounds=scenes, mask_column="masks", background_column="kind", feather=0)
    for row in method.map(clips):
        frames, (mask,) = frames_of(row), masks_of(row)
        still = np.unique(frames[mask == 0])
        assert len(still) == 1 and scenes["kind"][still[0] - 5] == row["background"]


def test_half_of_the_actors_are_flipped(clips):
    method = ActorComposite(backgrounds=clips, mask_column="masks", feather=0)
    masks = [method.synthesize(clips[0], np.random.default_rng(seed)).masks[0] for seed in range(12)]
    flipped = [mask[0, 6, :8].all() for mask in masks]
    assert 1 <= sum(flipped) <= 11


def test_pasting_is_a_weighted_mean():
    rng = np.random.default_rng(0)
    frames, background = rng.integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8)
    alpha = rng.random((3, 4, 5)).astype(np.float32)
    expected = alpha[..., None] * frames + (1 - alpha[..., None]) * background
    assert np.abs(blend(frames, background, alpha) - expected).max() <= 0.5 + 1e-3


def test_masks_are_read_from_a_stack_or_a_list():
    masks, indices = actor_masks(1, 6), np.array([0, 2, 5])
    clip = SampledClip(np.zeros((3, HEIGHT, WIDTH, 3), np.uint8), indices, 6, (HEIGHT, WIDTH))
    for value in (encode_mask(masks), [encode_mask(mask) for mask in masks], encode_png(masks.reshape(-1, WIDTH))):
        assert (read_masks(value, clip) == masks[indices]).all()
    half = SampledClip(np.zeros((3, HEIGHT // 2, WIDTH // 2, 3), np.uint8), indices, 6, (HEIGHT, WIDTH))
    assert np.abs(read_masks(encode_mask(masks), half).sum() - masks[indices].sum() / 4) < 3
    with pytest.raises(ValueError, match="5 masks for a clip of 6 frames"):
        read_masks([encode_mask(mask) for mask in masks[:5]], clip)


def test_windows_and_resizing():
    image = np.arange(10 * 20 * 3, dtype=np.uint8).reshape(10, 20, 3)
    window = crop_to_aspect(image, (10, 10), np.random.default_rng(0))
    assert any((window == image[:, left : left + 10]).all() for left in range(11))
    frames = np.full((2, 8, 6, 3), 9, np.uint8)
    assert (resize_frames(frames, (4, 3)) == 9).all() and resize_frames(frames, (4, 3)).shape == (2, 4, 3, 3)
    assert resize_frames(np.ones((2, 8, 6), np.float32), (4, 3)).dtype == np.float32


# ---------------------------------------------------------------------------------------------- what is stored


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


# ---------------------------------------------------------------------------------------------- masks and boxes


def test_masks_and_boxes_of_clips_become_provenance(clips, guided_clips):
    boxed = add_provenance(clips, box_column="boxes", video_column="video")
    for i in range(COUNT):
        masks = actor_masks(i, 8 + i % 5)
        for rows in (guided_clips, boxed):
            assert (decode_mask(rows[i]["provenance"][0], len(masks)) == 255 * masks).all()
            validate_row(rows[i], i, 3, video_column="video")
    assert guided_clips.features["video"] == clips.features["video"]


def test_boxes_and_masks_of_another_length_are_refused(clips):
    short = clips.map(lambda row: {"boxes": row["boxes"][:4]})
    with pytest.raises(ProvenanceError, match="row 0, column 'boxes': 4 boxes for a clip of 8 frames"):
        add_provenance(short, box_column="boxes", video_column="video")
    row = dict(add_provenance(clips, mask_column="masks", video_column="video")[0])
    row["provenance"] = [encode_mask(actor_masks(0, 7))]
    with pytest.raises(ProvenanceError, match="row 3, column 'provenance': mask of 32x168 for an image of 32x192"):
        validate_row(row, 3, 3, video_column="video")
    with pytest.raises(ProvenanceError, match="row 3, column 'video': clip None: there is no clip"):
        validate_row({**row, "video": None}, 3, 3, video_column="video")


# ---------------------------------------------------------------------------------------------- ablations


@pytest.mark.parametrize("storage", ["png", "mp4"])
def test_a_misplaced_mask_of_a_clip_is_shifted_as_one_and_the_clip_stays(clips, storage):
    mixed = ActorComposite(backgrounds=clips, mask_column="masks", feather=0, flip=0, storage=storage).map(clips)
    moved = MaskAblation.named("random", seed=1, video_column="video").map(mixed)
    shifts = set()
    for before, after in zip(mixed, moved, strict=True):
        assert [value for name, value in before.items() if name != "provenance"] == [
            value for name, value in after.items() if name != "provenance"
        ]
        (old,), (new,) = masks_of(before), masks_of(after)
        found = [
            (dy, dx)
            for dy in range(HEIGHT)
            for dx in range(WIDTH)
            if (np.roll(old, (dy, dx), axis=(1, 2)) == new).all()
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 3


def test_masks_of_clips_grow_and_shrink_frame_by_frame(guided_clips):
    for name, factor in (("dilate:0.3", 1.3), ("erode:0.3", 0.7), ("whole", 0)):
        rows = MaskAblation.named(name, video_column="video").map(guided_clips)
        for before, after in zip(guided_clips, rows, strict=True):
            length = len(before["video"])
            (old,), (new,) = masks_of(before, length), masks_of(after, length)
            wanted = np.rint(factor * (old > 0).sum((1, 2)))
            assert ((new > 0).sum((1, 2)) == wanted).all()


def test_an_ablation_names_what_is_wrong(guided_clips):
    with pytest.raises(ValueError, match="kind 'dilated' is none of dilate, erode, random, whole"):
        MaskAblation.named("dilated:0.1")
    with pytest.raises(ValueError, match="no column 'provenance' but"):
        MaskAblation.named("random").map(guided_clips.remove_columns("provenance"))
    other = guided_clips.map(lambda row: {"video": row["video"][:7]})
    with pytest.raises(ProvenanceError, match=r"row 0, column 'provenance': a mask of height 192 does not hold 7"):
        MaskAblation.named("random", video_column="video").map(other)


# ---------------------------------------------------------------------------------------------- bad input


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


def test_settings_are_checked(clips, scenes):
    wrong = {
        "mixes two clips: its source has 1": lambda: VideoMix(source=clips.select([0])),
        "mode 'frames' is none of": lambda: VideoMix(source=clips, mode="frames"),
        "storage 'gif' is none of": lambda: VideoMix(source=clips, storage="gif"),
        "does not hold two clips": lambda: TileMix(source=clips, grid=(1, 1)),
        "needs clips in 'video' or images in 'image'": lambda: ActorComposite(
            backgrounds=clips.remove_columns("video")
        ),
        "column 'name' of `backgrounds` is not a ClassLabel": lambda: ActorComposite(
            backgrounds=clips, background_column="name"
        ),
        "row_id_column": lambda: VideoMix(source=clips).map(clips.to_iterable_dataset()),
        "set `video_column`": lambda: VideoMix(source=clips)({"clip": [1]}, [0]),
    }
    for words, make in wrong.items():
        with pytest.raises(ValueError, match=words):
            make()


def test_a_row_without_an_actor_is_named(clips):
    method = ActorComposite(backgrounds=clips, mask_column="masks")
    empty = clips.map(lambda row, i: {"masks": encode_mask(actor_masks(i, 8 + i % 5) * (i != 4))}, with_indices=True)
    with pytest.raises(ProvenanceError, match=r"row 4.*masks are empty"):
        method.map(empty)
    with pytest.raises(ProvenanceError, match=r"row 0.*no actor: give a `mask_column`"):
        ActorComposite(backgrounds=clips).map(clips)
    longer = clips.map(lambda row, i: {"masks": encode_mask(actor_masks(i, 7))}, with_indices=True)
    with pytest.raises(ProvenanceError, match=r"row 0.*column 'masks': 8 masks of 32x21 for frames of 32x24"):
        method.map(longer)
    mixed = VideoMix(source=clips).map(clips)
    with pytest.raises(ProvenanceError, match="one mask in 'masks' for 2 labels: leave `mask_column` out"):
        method.map(mixed)


# ---------------------------------------------------------------------------------------------- real clips


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
