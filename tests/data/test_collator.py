"""Rows to a batch: the model's own preprocessing, one geometry for image and masks, mixed rows."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from transformers import BitImageProcessor, ConvNextImageProcessor, TimmWrapperImageProcessor, ViTImageProcessor

from hf_pgg import CutMix, FreshDraws, PGGCollator
from hf_pgg.data.images import decode_mask, to_rgb
from hf_pgg.data.provenance import ProvenanceError

SQUASH = ViTImageProcessor(size={"height": 20, "width": 28})
PROCESSORS = {
    "squash": SQUASH,
    "crop": BitImageProcessor(size={"shortest_edge": 30}, crop_size={"height": 24, "width": 24}),
    "convnext": ConvNextImageProcessor(size={"shortest_edge": 28}),
    "timm": TimmWrapperImageProcessor(
        {
            "input_size": (3, 28, 28),
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
        }
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixel_values_are_the_image_processors(name, photos):
    rows = [photos[i] for i in (0, 1)]
    ours = PGGCollator(PROCESSORS[name])(rows)["pixel_values"]
    theirs = PROCESSORS[name](images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape and ours.dtype == torch.float32
    # two resizers of the same kind differ by a rounding step of 8 bits here and there
    assert (ours - theirs).abs().mean() < 0.02


def test_masks_go_the_way_of_the_image(guided_photos):
    """An image whose red channel is its mask stays aligned with it through crop, flip and resize."""

    def paint(row):
        mask = decode_mask(row["provenance"][0])
        return {**row, "image": np.dstack([mask, 0 * mask, 0 * mask])}

    torch.manual_seed(0)
    augment = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomResizedCrop(24, scale=(0.5, 1.0), antialias=True)])
    processor = ViTImageProcessor(size={"height": 24, "width": 24}, do_normalize=False)
    batch = PGGCollator(processor, augment=augment)([paint(guided_photos[i]) for i in range(8)])
    difference = (batch["pixel_values"][:, 0] - batch["provenance"][:, 0]).abs()
    assert difference.mean() < 0.05 and batch["provenance"].mean() > 0.1


def test_rows_of_different_k_and_without_provenance_share_a_batch(photos, guided_photos, processor):
    mixed = CutMix(source=photos).map(photos)
    unknown = {**mixed[2], "provenance": None}
    batch = PGGCollator(processor)([mixed[0], guided_photos[1], photos[2], unknown])
    assert batch["labels"].shape == (4, 2) and batch["labels"][1, 1] == -100
    assert batch["guided"].tolist() == [True, True, False, False]
    assert batch["provenance"].shape == (4, 2, 32, 32) and batch["provenance"][2:].eq(0).all()
    assert torch.allclose(batch["label_weights"].sum(1), torch.ones(4))
    assert "provenance" not in PGGCollator(processor)([photos[0], photos[1]])


def test_sources_of_one_class_merge(photos, processor):
    row = CutMix(source=photos.filter(lambda row: row["label"] == 1)).map(photos)[1]
    batch = PGGCollator(processor)([row])
    assert batch["labels"].tolist() == [[1, -100]]
    assert batch["provenance"][0, 0].eq(1).all() and batch["label_weights"][0].tolist() == [1, 0]


def test_groups_are_passed_on(guided_photos, processor):
    batch = PGGCollator(processor, extra_columns=["scene"])([guided_photos[i] for i in range(3)])
    assert batch["scene"].tolist() == [0, 1, 0]


def test_evaluation_neither_augments_nor_synthesizes(guided_photos, processor):
    collator = PGGCollator(processor, augment=v2.RandomHorizontalFlip(1.0))
    plain = collator.for_evaluation()([guided_photos[1]])["pixel_values"]
    assert torch.equal(plain.flip(-1), collator([guided_photos[1]])["pixel_values"])


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16"])
def test_odd_images_are_converted(mode, photos, processor):
    image = photos[1]["image"].convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        from PIL import Image as PILImage

        image = PILImage.fromarray(np.asarray(image).astype(np.uint16) * 257)
    batch = PGGCollator(processor)([{"image": image, "label": 0}])
    assert batch["pixel_values"].shape == (1, 3, 32, 32) and to_rgb(image).dtype == np.uint8


def test_a_processor_without_a_size_is_refused():
    class Bare:
        size = None

    with pytest.raises(ValueError, match="states no input size"):
        PGGCollator(Bare())


def test_a_collator_says_which_columns_it_reads(photos, processor):
    mix = FreshDraws(CutMix(source=photos, row_id_column="photo_id"))
    collator = PGGCollator(processor, synthesis=mix, extra_columns=["scene"])
    contract = {"image", "labels", "label_weights", "provenance"}
    assert set(collator.columns) == contract | {"label", "scene", "photo_id"}
    assert set(collator.for_evaluation().columns) == contract | {"label", "scene"}
    clips = PGGCollator(processor, video_column="clip")
    assert clips.input_column == "clip" and "clip" in clips.columns


def test_a_collator_checks_the_rows_that_it_reads(guided_photos, processor):
    collator = PGGCollator(processor)
    collator.validate_row(guided_photos[0], 0, num_classes=3)
    doubled = {**guided_photos[0], "labels": [0, 1], "label_weights": [0.5, 0.5]}
    doubled["provenance"] = guided_photos[0]["provenance"] * 2
    with pytest.raises(ProvenanceError, match=r"row 0, column .provenance.: the masks sum to 2\.00"):
        collator.validate_row(doubled, 0, num_classes=3)
    collator.validate_row(doubled, 0, num_classes=3, allow_overlap=True)
