"""Actors on other scenes, from masks of every kind."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from scipy.ndimage import binary_erosion

from hf_pgg import ProvenanceError
from hf_pgg.data.images import encode_mask, encode_png
from hf_pgg.data.masks import read_clip_masks
from hf_pgg.data.video import SampledClip
from hf_pgg.synthesis.actor_composite import ActorComposite
from hf_pgg.synthesis.videomix import VideoMix
from tests.synthesis.conftest import GREY, HEIGHT, LABEL, WIDTH, actor_masks, frames_of, masks_of


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    images = [encode_png(np.full((20 + i, 40, 3), 5 + i, np.uint8)) for i in range(4)]
    rows = {"image": images, "kind": rng.integers(0, 2, 4).tolist()}
    return Dataset.from_dict(rows, features=Features(image=Image(), kind=ClassLabel(names=["sea", "forest"])))


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


def test_masks_are_read_from_a_stack_or_a_list():
    masks, indices = actor_masks(1, 6), np.array([0, 2, 5])
    clip = SampledClip(np.zeros((3, HEIGHT, WIDTH, 3), np.uint8), indices, 6, (HEIGHT, WIDTH))
    for value in (encode_mask(masks), [encode_mask(mask) for mask in masks], encode_png(masks.reshape(-1, WIDTH))):
        assert (read_clip_masks(value, clip) == masks[indices]).all()
    half = SampledClip(np.zeros((3, HEIGHT // 2, WIDTH // 2, 3), np.uint8), indices, 6, (HEIGHT, WIDTH))
    assert np.abs(read_clip_masks(encode_mask(masks), half).sum() - masks[indices].sum() / 4) < 3
    with pytest.raises(ValueError, match="5 masks for a clip of 6 frames"):
        read_clip_masks([encode_mask(mask) for mask in masks[:5]], clip)


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
