"""Masks of images and clips that are grown, shrunk, misplaced or emptied."""

import numpy as np
import pytest

from hf_pgg import MaskAblation, ProvenanceError
from hf_pgg.synthesis.actor_composite import ActorComposite
from hf_pgg.synthesis.mask_ablation import _misplaced_mask, _resize_mask_area
from tests.synthesis.conftest import HEIGHT, WIDTH, masks_of


@pytest.mark.parametrize("fraction", [0.1, 0.3, -0.1, -0.3])
def test_dilation_and_erosion_are_by_area(fraction):
    rows, columns = np.mgrid[:60, :60]
    mask = ((rows - 30) ** 2 + (columns - 25) ** 2 < 200).astype(np.float32)
    moved = _resize_mask_area(mask, fraction)
    assert moved.sum() == round(mask.sum() * (1 + fraction))
    assert (moved >= (mask > 0)).all() if fraction > 0 else (moved <= (mask > 0)).all()


def test_a_random_mask_has_the_true_ones_area():
    mask = np.zeros((9, 9))
    mask[2:5, 3:5] = 1
    moved = [_misplaced_mask(mask, np.random.default_rng(seed)) for seed in range(8)]
    assert all(m.sum() == mask.sum() for m in moved)
    assert any((m != mask).any() for m in moved)


def test_the_whole_image_penalty_has_no_inside(guided_photos):
    rows = MaskAblation(kind="whole").map(guided_photos)
    assert not np.asarray(rows[0]["provenance"][0]).any()


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
