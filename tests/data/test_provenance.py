"""The contract: encoding, merging, validation, and a user's own masks and boxes."""

import io

import numpy as np
import pytest
import torch
from datasets import Features, Image, List
from PIL import Image as PILImage

from hf_pgg import ProvenanceError, add_provenance, provenance_features
from hf_pgg.data.boxes import boxes_to_mask
from hf_pgg.data.images import decode_mask, encode_mask, encode_png, to_rgb
from hf_pgg.data.provenance import Sources, merge_sources
from hf_pgg.data.validation import validate_row


def png(array, mode=None):
    buffer = io.BytesIO()
    PILImage.fromarray(array, mode).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def good_row():
    half = np.zeros((8, 6), bool)
    half[:, :3] = True
    return {
        "image": encode_png(np.full((8, 6, 3), 7, np.uint8)),
        "labels": [0, 2],
        "label_weights": [0.5, 0.5],
        "provenance": [encode_mask(half), encode_mask(~half)],
    }


def test_masks_survive_encoding_to_the_last_bit():
    mask = np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8)
    assert (decode_mask(encode_mask(mask)) == mask).all()


def test_a_clip_is_stacked_from_top_to_bottom():
    clip = np.random.default_rng(0).integers(0, 256, (4, 5, 7), dtype=np.uint8)
    assert decode_mask(encode_mask(clip)).shape == (20, 7)
    assert (decode_mask(encode_mask(clip), num_frames=4) == clip).all()
    with pytest.raises(ValueError, match="3 frames"):
        decode_mask(encode_mask(clip), num_frames=3)


def test_a_box_mask_costs_little():
    mask = np.zeros((224, 224), bool)
    mask[30:120, 50:200] = True
    assert len(encode_mask(mask)["bytes"]) < 400


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "LA"])
def test_images_of_every_mode_become_rgb(mode):
    image = PILImage.fromarray(np.full((5, 4, 3), 200, np.uint8)).convert(mode)
    assert to_rgb(image).shape == (5, 4, 3)
    assert abs(int(to_rgb(image)[0, 0, 0]) - 200) <= 60  # a 1-bit image is black or white


def test_16_bit_and_float_images_are_scaled():
    assert to_rgb(PILImage.fromarray(np.full((2, 2), 65535, np.uint16)))[0, 0].tolist() == [255] * 3
    assert to_rgb(np.full((2, 2, 3), 0.5))[0, 0].tolist() == [128] * 3


def test_transparency_is_laid_on_black():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., 0], rgba[0, ..., 3] = 255, 255
    assert to_rgb(PILImage.fromarray(rgba))[:, 0, 0].tolist() == [255, 0]


def test_nan_and_empty_images_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        to_rgb(np.full((2, 2, 3), np.nan))
    with pytest.raises(ValueError, match="no pixels"):
        to_rgb(np.zeros((0, 2, 3)))


def test_sources_that_share_a_label_merge():
    labels = torch.tensor([[1, 1, 2], [0, 1, -100]])
    weights = torch.tensor([[0.2, 0.3, 0.5], [0.4, 0.6, 0.0]])
    masks = torch.rand(2, 3, 4, 4)
    merged_labels, merged_weights, merged = merge_sources(labels, weights, masks)
    assert merged_labels.tolist() == [[1, -100, 2], [0, 1, -100]]
    assert torch.allclose(merged_weights, torch.tensor([[0.5, 0, 0.5], [0.4, 0.6, 0]]))
    assert torch.allclose(merged[0, 0], (masks[0, 0] + masks[0, 1]).clamp(max=1))
    assert torch.equal(merged[0, 2], masks[0, 2]) and torch.equal(merged[1, :2], masks[1, :2])


def test_a_good_row_passes():
    validate_row(good_row(), 0, 3)
    validate_row({"image": good_row()["image"], "label": 2}, 0, 3)


def broken(**changes):
    return {**good_row(), **changes}


small = encode_mask(np.zeros((4, 6), bool))
full = encode_mask(np.ones((8, 6), bool))
truncated = {"bytes": encode_png(np.random.default_rng(0).integers(0, 255, (64, 64, 3)))["bytes"][:900], "path": None}


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        (broken(image=None), "image", "no image"),
        (broken(image=truncated), "image", "cannot be decoded"),
        (broken(labels=[0, 3]), "labels", "label 3 is outside 0..2"),
        (broken(labels=[0, -1]), "labels", "label -1 is outside"),
        (broken(labels=[]), "labels", "no label"),
        (broken(label_weights=[1.0]), "label_weights", "of length 1, with 2 labels"),
        (broken(label_weights=None), "label_weights", "missing"),
        (broken(label_weights=[0.5, 0.6]), "label_weights", "sums to 1.1"),
        (broken(label_weights=[float("nan"), 0.5]), "label_weights", "not 1"),
        (broken(provenance=[full]), "provenance", "1 masks, 2 labels"),
        (broken(provenance=[small, small]), "provenance", "mask of 6x4 for an image of 6x8"),
        (broken(provenance=[full, full]), "provenance", "sum to 2.00"),
    ],
)
def test_a_bad_row_is_named_with_its_column_and_the_remedy(row, column, words):
    with pytest.raises(ProvenanceError, match=f"row 17, column '{column}'") as caught:
        validate_row(row, 17, 3)
    assert words in str(caught.value)
    assert str(caught.value).rstrip().endswith(".")


def test_declared_overlap_is_accepted():
    validate_row(broken(provenance=[full, full]), 0, 3, allow_overlap=True)


def test_a_mask_column_becomes_provenance_in_one_call(photos):
    rows = add_provenance(photos, mask_column="mask")
    assert rows.features["provenance"] == List(Image(mode="L"))
    assert (np.asarray(rows[3]["provenance"][0]) > 0).tolist() == (np.asarray(photos[3]["mask"]) > 0).tolist()
    assert rows[3]["labels"] == [photos[3]["label"]] and rows[3]["label_weights"] == [1.0]
    assert np.array_equal(np.asarray(rows[3]["image"]), np.asarray(photos[3]["image"]))


def test_boxes_become_provenance(photos):
    boxes = [[2.0, 3.0, 10.0, 5.0] if i else None for i in range(len(photos))]
    rows = add_provenance(photos.add_column("box", boxes), box_column="box", box_format="xywh")
    mask = np.asarray(rows[1]["provenance"][0])
    assert mask.sum() == 255 * 50 and mask[3:8, 2:12].all()
    assert rows[0]["provenance"] is None
    assert boxes_to_mask(np.array([[0, 0, 2, 1], [1, 0, 3, 2]]), (2, 4)).sum() == 5


def test_a_label_map_names_its_target():
    trimap = np.array([[1, 2, 3], [1, 1, 2]], np.uint8)
    from datasets import ClassLabel, Dataset

    data = Dataset.from_dict(
        {"image": [png(np.zeros((2, 3, 3), np.uint8))], "trimap": [png(trimap)], "label": [0]},
        features=Features({"image": Image(), "trimap": Image(), "label": ClassLabel(names=["cat"])}),
    )
    mask = np.asarray(add_provenance(data, mask_column="trimap", target_value=1)[0]["provenance"][0])
    assert (mask == 255 * (trimap == 1)).all()


def test_a_misspelt_column_is_named(photos):
    with pytest.raises(ValueError, match=r"'maks' is not in the dataset; its columns are \['image'"):
        add_provenance(photos, mask_column="maks")
    with pytest.raises(ValueError, match="either `mask_column` or `box_column`"):
        add_provenance(photos)


def test_features_hold_the_contract(photos):
    features = provenance_features(photos.features["label"], scene=photos.features["scene"])
    assert list(features) == ["image", "labels", "label_weights", "provenance", "scene"]


def test_sources_mix_by_the_share_of_their_pixels():
    whole = np.ones((2, 4), np.float32)
    inside = np.array([[0, 0, 0, 1], [0, 0, 0, 1.0]], np.float32)
    mixed = Sources([0], [1.0], [whole]).mix(Sources([1, 0], [0.5, 0.5], [whole, 0 * whole]), inside)
    assert mixed.labels == [0, 1, 0] and mixed.weights == [0.75, 0.125, 0.125]
    assert (mixed.masks[0] == 1 - inside).all() and (mixed.masks[1] == inside).all() and not mixed.masks[2].any()


def test_sources_of_one_label_become_one():
    masks = [np.full((1, 2), value, np.float32) for value in (0.75, 0.5, 0.25)]
    merged = Sources([2, 1, 2], [0.25, 0.5, 0.25], masks).merged()
    assert merged.labels == [2, 1] and merged.weights == [0.5, 0.5]
    assert merged.masks[0].tolist() == [[1, 1]] and merged.masks[1].tolist() == [[0.5, 0.5]]


def test_sources_are_resized_frame_by_frame():
    frames = np.stack([np.zeros((4, 6)), np.ones((4, 6))]).astype(np.float32)
    clip, image = (Sources([0], [1.0], [mask]).resized((2, 3)).masks[0] for mask in (frames, frames[1]))
    assert clip.shape == (2, 2, 3) and image.shape == (2, 3)
    assert not clip[0].any() and (clip[1] == 1).all() and (image == 1).all()
