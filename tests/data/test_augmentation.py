"""A user's augmentation: moved with the masks, still 8 bits; what cannot be is refused in a sentence."""

import numpy as np
import pytest
import torch
import torchvision.transforms as v1
from timm.data import create_transform
from timm.data.auto_augment import rand_augment_transform
from torchvision.transforms import v2
from transformers import ViTImageProcessor

from hf_pgg import PGGCollator
from hf_pgg.data.images import decode_mask

PROCESSOR = ViTImageProcessor(size={"height": 24, "width": 24}, do_normalize=False)


def batch_of(augment, rows):
    return PGGCollator(PROCESSOR, augment=augment)([rows[i] for i in range(4)])


@pytest.mark.parametrize(
    "augment",
    [
        v1.RandomHorizontalFlip(),
        v1.Compose([v1.RandomResizedCrop(24)]),
        v2.Compose([v2.RandomHorizontalFlip(), v1.ColorJitter()]),
        create_transform(24, is_training=True),
        rand_augment_transform("rand-m9-mstd0.5", {}),
        v2.RandAugment(),
        v2.Compose([v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()]),
        v2.AutoAugment(),
        v2.AugMix(),
        PROCESSOR,
    ],
    ids=lambda augment: f"{type(augment).__module__}.{type(augment).__name__}",
)
def test_transforms_that_leave_masks_behind_are_refused_at_construction(augment):
    with pytest.raises(ValueError, match=r"`augment`: .*give a `torchvision.transforms.v2`.*or an albumentations"):
        PGGCollator(PROCESSOR, augment=augment)


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        (v2.ToDtype(torch.float32, scale=True), "float32 pixels from 0.* leave `Normalize`"),
        (v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]), "float32 pixels"),
        (v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.ToDtype(torch.uint8)]), "scales to .0, 1. and then"),
        (lambda sample: {**sample, "image": sample["image"].float()}, "float32 pixels"),
        (lambda image: image.flip(-1), "`augment` failed .AttributeError.* called with a dict of 'image' and 'masks'"),
        (lambda sample: {"image": sample["image"]}, "`augment` failed .KeyError"),
        (lambda sample: {**sample, "image": sample["image"][..., 3:]}, "masks of .* go together"),
        (lambda sample: {**sample, "masks": sample["masks"][:0]}, "go together"),
        (v2.RandomCrop(400), "`augment` failed .ValueError"),
    ],
)
def test_a_pipeline_that_scales_twice_or_parts_image_and_masks_is_seen_on_the_first_row(augment, words, guided_photos):
    with pytest.raises(ValueError, match=f"row 0 of the batch, column 'image': .*{words}"):
        batch_of(augment, guided_photos)


def test_what_is_no_function_is_refused():
    with pytest.raises(ValueError, match="`augment` is str, which cannot be called"):
        PGGCollator(PROCESSOR, augment="flip")


def test_noise_in_floats_is_welcome_if_it_ends_in_8_bits(guided_photos):
    there_and_back = [v2.ToDtype(torch.float32, scale=True), v2.GaussianNoise(), v2.ToDtype(torch.uint8, scale=True)]
    batch = batch_of(v2.Compose(there_and_back), guided_photos)
    assert 0.3 < batch["pixel_values"].mean() < 0.7


def test_an_albumentations_pipeline_moves_masks_with_their_image(guided_photos):
    albumentations = pytest.importorskip("albumentations")

    def paint(row):
        mask = decode_mask(row["provenance"][0])
        return {**row, "image": np.dstack([mask, 0 * mask, 0 * mask])}

    painted = [paint(row) for row in guided_photos.select(range(4))]
    compose = albumentations.Compose([albumentations.RandomCrop(24, 24), albumentations.HorizontalFlip()])
    torch.manual_seed(0)
    batch = batch_of(compose, painted)
    assert batch["provenance"].mean() > 0.1
    torch.testing.assert_close(batch["provenance"][:, 0], batch["pixel_values"][:, 0])
    torch.manual_seed(0)
    assert torch.equal(batch_of(compose, painted)["pixel_values"], batch["pixel_values"]), (
        "drawn from torch's generator"
    )
    assert not torch.equal(batch_of(compose, painted)["pixel_values"], batch["pixel_values"])
    assert batch_of(compose, [{**row, "provenance": None} for row in painted])["pixel_values"].shape == (4, 3, 24, 24)
    with pytest.raises(ValueError, match="float32 pixels"):
        batch_of(albumentations.Compose([albumentations.Normalize()]), painted)
