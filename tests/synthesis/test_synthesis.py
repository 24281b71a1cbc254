"""Every pixel of a mask against the source it claims, and the same result for any way of walking the data."""

import io

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from datasets.distributed import split_dataset_by_node
from PIL import Image as PILImage

from hf_pgg import (
    BackgroundExchange,
    Composite,
    CutMix,
    Edit,
    FreshDraws,
    MaskAblation,
    PGGCollator,
    ProvenanceError,
    ResizeMix,
)
from hf_pgg.data.images import decode_mask, to_rgb
from hf_pgg.synthesis.background_exchange import fill_target
from hf_pgg.synthesis.composite import _crop_to_mask, composite
from hf_pgg.synthesis.cutmix import _cutmix_box
from hf_pgg.synthesis.edit import unedited_mask
from hf_pgg.synthesis.mask_ablation import _misplaced_mask, _resize_mask_area
from hf_pgg.synthesis.pasting import paste_window
from hf_pgg.synthesis.resizemix import _resizemix_box
from tests.synthesis.conftest import contents


def grey_band(image):
    """An edit: the lower half becomes grey."""
    image[image.shape[0] // 2 :] = 128
    return image


# ---------------------------------------------------------------------------------------------- pixels


def test_cutmix_takes_every_pixel_from_the_source_its_mask_names(photos):
    mixed = CutMix(source=photos.filter(lambda row: row["label"] == 0), seed=3).map(photos)
    same_size = [i for i in range(len(photos)) if photos[i]["image"].size == (32, 32)]
    pool = [to_rgb(row["image"]) for row in photos if row["label"] == 0]
    for i in same_size:
        row, own = mixed[i], to_rgb(photos[i]["image"])
        ours, theirs = (np.asarray(mask) == 255 for mask in row["provenance"])
        image = to_rgb(row["image"])
        assert (ours ^ theirs).all()
        assert (image[ours] == own[ours]).all()
        partners = [other for other in pool if other.shape == own.shape]
        if theirs.any() and any((image[theirs] == other[theirs]).all() for other in partners):
            assert row["labels"][1] == 0
        assert row["label_weights"] == pytest.approx([ours.mean(), theirs.mean()], abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_the_cutmix_box_is_clipped_and_lambda_exact(seed):
    rng = np.random.default_rng(seed)
    y, x = int(rng.integers(20)), int(rng.integers(30))
    box = _cutmix_box(20, 30, rng.random(), y, x)
    assert 0 <= box[0] <= box[1] <= 20 and 0 <= box[2] <= box[3] <= 30
    image, other = rng.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    mixed, mask = paste_window(image, other, np.s_[box[0] : box[1], box[2] : box[3]])
    assert (mixed[mask == 1] == other[mask == 1]).all() and (mixed[mask == 0] == image[mask == 0]).all()


def test_resizemix_pastes_the_whole_partner():
    assert _resizemix_box(20, 30, 0.5, 0.0, 1.0) == (0, 10, 15, 30)
    box = _resizemix_box(33, 17, 0.8, 0.37, 0.91)
    assert 0 <= box[0] < box[1] <= 33 and 0 <= box[2] < box[3] <= 17


def test_a_composite_is_the_object_inside_and_the_background_outside():
    rng = np.random.default_rng(0)
    cutout, background = (
        rng.integers(0, 256, (6, 5, 3), dtype=np.uint8),
        rng.integers(0, 256, (12, 10, 3), dtype=np.uint8),
    )
    alpha = rng.random((6, 5)).astype(np.float32)
    mixed, placed = composite(cutout, alpha, background, top=9, left=-2)
    assert (mixed[placed == 0] == background[placed == 0]).all()
    assert placed[9:, :3] == pytest.approx(alpha[:3, 2:])
    expected = alpha[:3, 2:, None] * cutout[:3, 2:] + (1 - alpha[:3, 2:, None]) * background[9:, :3]
    assert np.abs(mixed[9:, :3] - expected).max() <= 0.5 + 1e-3


def test_a_cutout_comes_from_rgba_from_a_mask_or_from_provenance(photos, guided_photos, photo_scenes):
    mask = np.asarray(photos[1]["mask"])
    rgba = PILImage.fromarray(np.dstack([to_rgb(photos[1]["image"]), mask]))
    options = {"backgrounds": photo_scenes, "size": 40, "seed": 5}
    rows = [
        Composite(mask_column="mask", **options).synthesize(photos[1], np.random.default_rng(0)),
        Composite(**options).synthesize(guided_photos[1], np.random.default_rng(0)),
        Composite(**options).synthesize({"image": rgba, "label": 1}, np.random.default_rng(0)),
    ]
    assert all((row.image == rows[0].image).all() for row in rows)
    with pytest.raises(ProvenanceError, match=r"row 0.*no cut-out: give an RGBA image"):
        Composite(**options)({"image": [photos[1]["image"]], "label": [1]}, [0])


def test_cooccurrence_ties_labels_to_backgrounds(photos, photo_scenes):
    method = Composite(
        backgrounds=photo_scenes,
        mask_column="mask",
        size=24,
        background_column="label",
        cooccurrence=((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)),
    )
    rows = method.map(photos)
    for row in rows:
        assert row["label"] == 2 or row["background"] == row["label"]
    assert rows.features["background"] == photo_scenes.features["label"]
    with pytest.raises(ValueError, match=r"cooccurrence\[0\]"):
        Composite(backgrounds=photo_scenes, background_column="label", cooccurrence=((0.5, 0.6),))


def test_an_edit_keeps_what_it_left_alone(photos):
    row = Edit(editor=grey_band).map(photos)[0]
    kept = np.asarray(row["provenance"][0])
    height = kept.shape[0]
    # the threshold's blur and the morphology may move the edge by three pixels, not more
    assert (kept[: height // 2 - 3] == 255).all() and (kept[height // 2 + 3 :] == 0).all()


def test_an_edit_that_changes_nothing_keeps_everything():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert unedited_mask(image, image).all()
    recompressed = io.BytesIO()
    PILImage.fromarray(np.full((20, 20, 3), 99, np.uint8)).save(recompressed, "JPEG", quality=90)
    assert unedited_mask(np.full((20, 20, 3), 99, np.uint8), to_rgb(PILImage.open(recompressed))).all()


def test_exchange_keeps_the_target_and_changes_the_rest(guided_photos):
    rows = BackgroundExchange(source=guided_photos, seed=1).map(guided_photos)
    for before, after in zip(guided_photos, rows, strict=True):
        inside = np.asarray(before["provenance"][0]) == 255
        assert (to_rgb(after["image"])[inside] == to_rgb(before["image"])[inside]).all()
        assert (to_rgb(after["image"])[~inside] != to_rgb(before["image"])[~inside]).any()


def test_filling_removes_the_object():
    image = np.full((32, 32, 3), 50, np.uint8)
    inside = np.zeros((32, 32), np.float32)
    inside[8:20, 8:20] = 1
    image[inside == 1] = 250
    assert np.abs(fill_target(image, inside).astype(int) - 50).max() <= 1


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


# ---------------------------------------------------------------------------------------------- determinism


def test_fresh_draws_change_with_the_epoch_in_transform_and_collator(photos, processor):
    fresh = FreshDraws(CutMix(source=photos, row_id_column="name"))
    rows = photos.with_transform(fresh)
    first = np.asarray(to_rgb(rows[3]["image"]))
    assert (first == to_rgb(rows[3]["image"])).all()
    fresh.set_epoch(1)
    assert (first != to_rgb(rows[3]["image"])).any()
    fresh.set_epoch(0)
    assert (first == to_rgb(rows[3]["image"])).all()
    collator = PGGCollator(processor, synthesis=fresh)
    raw = [photos[i] for i in range(4)]
    batches = []
    for epoch in (0, 1, 0):
        collator.set_epoch(epoch)
        batches.append(collator(raw)["pixel_values"])
    assert torch.equal(batches[0], batches[2]) and not torch.equal(batches[0], batches[1])


def test_fresh_draws_reach_data_loader_workers(photos, processor):
    fresh = FreshDraws(CutMix(source=photos, row_id_column="name"))
    loader = torch.utils.data.DataLoader(
        photos, batch_size=8, num_workers=1, persistent_workers=True, collate_fn=PGGCollator(processor, synthesis=fresh)
    )
    epochs = []
    for epoch in (0, 1, 0):
        fresh.set_epoch(epoch)
        epochs.append(torch.cat([batch["pixel_values"] for batch in loader]))
    assert torch.equal(epochs[0], epochs[2]) and not torch.equal(epochs[0], epochs[1])


def test_mixing_keeps_earlier_provenance(guided_photos):
    row = CutMix(source=guided_photos, seed=2).map(guided_photos)[1]
    box = np.asarray(row["provenance"][1]) > 0
    own = np.asarray(guided_photos[1]["provenance"][0]) > 0
    assert not (np.asarray(row["provenance"][0]) > 0)[~own].any()
    assert not ((np.asarray(row["provenance"][0]) > 0) & box).any()


# ---------------------------------------------------------------------------------------------- bad input


def test_one_row_is_too_few_for_two_sources(photos):
    with pytest.raises(ValueError, match=r"mixes two images: its source has 1 row"):
        CutMix(source=photos.select([0]))


def test_a_truncated_image_is_named_by_its_row(photos):
    broken = photos.cast_column("image", Image(decode=False))
    rows = [dict(row) for row in broken]
    rows[5]["image"] = {"bytes": rows[5]["image"]["bytes"][:800], "path": None}
    features = Features({**broken.features, "image": Image()})
    data = Dataset.from_list(rows, features=features)
    with pytest.raises(ProvenanceError, match=r"row 5, column 'image': the image cannot be decoded"):
        CutMix(source=photos).map(data)


def test_an_editor_that_returns_nothing_is_named(photos):
    with pytest.raises(ProvenanceError, match="`editor` returned NoneType"):
        Edit(editor=lambda image: None).map(photos)


def test_an_empty_cutout_is_named(photos, photo_scenes):
    empty = photos.map(lambda row: {"mask": PILImage.new("L", row["image"].size)})
    with pytest.raises(ProvenanceError, match=r"row 0.*cut-out is empty"):
        Composite(backgrounds=photo_scenes, mask_column="mask").map(empty)
    assert _crop_to_mask(np.zeros((4, 4, 3)), np.eye(4))[1].shape == (4, 4)


def test_masks_decode_to_what_was_mixed(photos):
    row = ResizeMix(source=photos, seed=1).map(photos)[0]
    total = sum(decode_mask(mask).astype(int) for mask in row["provenance"])
    assert (total == 255).all()


# ---------------------------------------------------------------------------------------------- at scale


def test_every_process_streams_its_own_rows_once_and_resumes_in_the_middle(photos):
    """`split_dataset_by_node` over a stream: the processes' rows are those of the map-style run, each once."""
    rows = photos.add_column("row_id", list(range(len(photos))))
    method = CutMix(source=photos, row_id_column="row_id", seed=7)
    expected = contents(method.map(rows))

    def share_of(rank):
        return split_dataset_by_node(method.map(rows.to_iterable_dataset(num_shards=4)), rank=rank, world_size=2)

    parts = [list(share_of(rank)) for rank in range(2)]
    names = [row["name"] for part in parts for row in part]
    assert sorted(names) == sorted(photos["name"]) and all(parts)
    assert contents(row for part in parts for row in part) == expected

    whole, cut = [row["name"] for row in parts[1]], share_of(1)
    first = []
    for row in cut:
        first.append(row["name"])
        if len(first) == 5:
            break
    state, resumed = cut.state_dict(), share_of(1)
    resumed.load_state_dict(state)
    again = list(resumed)
    assert first + [row["name"] for row in again] == whole
    assert contents(again).items() <= expected.items()


def test_torch_runs_in_one_thread_meanwhile(photos):
    """With more, a forked worker of `map(num_proc=)` can hang on the first large resize."""
    threads = []

    def editor(image):
        threads.append(torch.get_num_threads())
        return 255 - image

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        Edit(editor=editor)(photos[:2], [0, 1])
        assert threads == [1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
