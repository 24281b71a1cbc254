"""The collator preprocesses as the image processor does, whatever its class and fields; masks keep the geometry."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image as PILImage
from transformers import TimmWrapperImageProcessor, ViTImageProcessor

from hf_pgg import PGGCollator
from hf_pgg.data.images import encode_mask
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.processors import output_size, process, sized

# class of the image processor -> fields other than its own
SQUARE = {"height": 36, "width": 36}
PROCESSORS = {
    "ViT": {"size": SQUARE},
    "Beit": {"size": {"height": 40, "width": 40}, "crop_size": SQUARE, "do_center_crop": True},
    "Bit": {"size": {"shortest_edge": 40}, "crop_size": {"height": 33, "width": 37}},
    "CLIP": {"size": {"shortest_edge": 36}, "crop_size": SQUARE},
    "ConvNext": {"size": {"shortest_edge": 36}},
    "DeiT": {"size": {"height": 42, "width": 42}, "crop_size": SQUARE},
    "Donut": {"size": {"height": 48, "width": 36}},
    "EfficientNet": {"size": SQUARE},
    "Levit": {"size": {"shortest_edge": 36}, "crop_size": SQUARE},
    "MobileNetV1": {"size": {"shortest_edge": 40}, "crop_size": SQUARE},
    "MobileNetV2": {"size": {"shortest_edge": 40}, "crop_size": SQUARE},
    "MobileViT": {"size": {"shortest_edge": 32}, "crop_size": SQUARE},
    "Owlv2": {"size": SQUARE},
    "Perceiver": {"size": SQUARE, "crop_size": {"height": 40, "width": 40}},
    "PoolFormer": {"size": {"shortest_edge": 36}, "crop_size": SQUARE},
    "PPLCNet": {},
    "Pvt": {"size": SQUARE},
    "Segformer": {"size": SQUARE},
    "Siglip": {"size": SQUARE},
    "VideoMAE": {"size": {"shortest_edge": 36}, "crop_size": SQUARE},
    "Vivit": {"size": {"shortest_edge": 40}, "crop_size": SQUARE},
}
FIELDS = {
    "no normalisation": ViTImageProcessor(size=SQUARE, do_normalize=False),
    "no rescaling": ViTImageProcessor(size=SQUARE, do_rescale=False, image_mean=[120.0] * 3, image_std=[60.0] * 3),
    "nearest": ViTImageProcessor(size=SQUARE, resample=0),
    "lanczos": ViTImageProcessor(size=SQUARE, resample=1),
    "ConvNeXt at 384 squashes": transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "CLIP that squashes": transformers.CLIPImageProcessor(size=SQUARE, do_center_crop=False),
    "a crop without a resize": transformers.BitImageProcessor(do_resize=False, crop_size=SQUARE),
    "Pillow's resizing": transformers.ViTImageProcessorPil(size=SQUARE),
}
TIMM = {
    "crop": {"crop_pct": 0.875},
    "bilinear": {"crop_pct": 0.95, "interpolation": "bilinear"},
    "squash": {"crop_pct": 1.0, "crop_mode": "squash"},
    "squash and crop": {"crop_pct": 0.9, "crop_mode": "squash"},
    "border": {"crop_pct": 1.0, "crop_mode": "border"},
    "border, margin": {"crop_pct": 0.8, "crop_mode": "border"},
    "padding": {"crop_pct": 1.15},
    "not square": {"input_size": (3, 36, 48)},
}
ALL = {
    **{
        name: getattr(transformers, f"{name.removesuffix('Image')}ImageProcessor")(**v)
        for name, v in PROCESSORS.items()
    },
    **FIELDS,
    **{f"timm, {name}": TimmWrapperImageProcessor({"input_size": (3, 36, 36), **v}) for name, v in TIMM.items()},
}
SHAPES = ((61, 83), (83, 61), (36, 36), (40, 131), (36, 48), (250, 203))


def _row(height, width):
    """Noise on black; the mask of a box stands in every channel of `painted`."""
    rng = np.random.default_rng([height, width])
    mask = np.zeros((height, width), np.uint8)
    mask[height // 5 : height // 2, width // 3 : 2 * width // 3] = 255
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), mask


@pytest.mark.parametrize("name", ALL)
def test_pixel_values_are_those_of_the_processor(name):
    processor = ALL[name]
    collator = PGGCollator(processor)
    for shape in SHAPES:
        image = _row(*shape)[0]
        ours = collator([{"image": image, "label": 0}])["pixel_values"]
        theirs = processor(PILImage.fromarray(image), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(ours, theirs.flatten(0, -4), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_masks_go_the_way_of_the_image(name):
    """The mask of a box comes out where the box, painted white on black, comes out."""
    processor = ALL[name]
    collator = PGGCollator(processor)
    for shape in SHAPES:
        mask = _row(*shape)[1]
        row = {"image": np.dstack([mask] * 3), "labels": [0], "label_weights": [1.0], "provenance": [encode_mask(mask)]}
        batch = collator([row])
        shown = collator.spec.display(batch["pixel_values"])[0].numpy()
        known = batch["provenance"][0, 0].numpy()
        black = collator.spec.display(process(processor, torch.zeros(3, *shape, dtype=torch.uint8))).numpy()
        inside = (known > 0.99) & (black.mean(2) < 0.01)  # a border that a processor adds is no target
        assert known.mean() > 0.02 and shown[inside].min() > 0.9
        assert known[black.mean(2) > 0.1].max(initial=0) == 0
        away = (black.mean(2) < 0.01) & (known < 0.01)
        assert shown[away].max() < 0.25  # a cubic kernel overshoots


@pytest.mark.parametrize(
    ("processor", "words"),
    [
        (transformers.CLIPImageProcessor(do_center_crop=False), r"do_center_crop=False.*set `do_center_crop`"),
        (transformers.BitImageProcessor(do_center_crop=False), r"size=\{'shortest_edge': 224\}.*pass `image_size`"),
        (ViTImageProcessor(do_resize=False), r"no input size that every image gets .*do_resize=False"),
        (transformers.TextNetImageProcessor(size={"shortest_edge": 64}), "no input size that every image gets"),
        (transformers.NougatImageProcessor(size=SQUARE), "moves an image by what is in it.*`do_crop_margin` to False"),
        (transformers.LlavaNextImageProcessor(), r"makes \(1, \d, 3, .* of 1 images"),
        (transformers.VitPoseImageProcessor(), "cannot process an image"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "preprocess") else "",
)
def test_what_has_no_size_or_whose_masks_cannot_follow_is_refused_by_field(processor, words):
    with pytest.raises(ValueError, match=words):
        PGGCollator(processor)


@pytest.mark.parametrize("name", ["ViT", "Bit", "CLIP", "ConvNext", "DeiT", "Levit", "MobileViT", "Perceiver",
                                  "PoolFormer", "EfficientNet", "timm, crop", "timm, border"])  # fmt: skip
@pytest.mark.parametrize("size", [48, 98])
def test_a_processor_of_another_size_is_a_copy_that_scales_its_margin(name, size):
    before = str(ALL[name])
    twin = sized(ALL[name], size)
    assert output_size(twin) == (size, size) and str(ALL[name]) == before and type(twin) is type(ALL[name])
    if name == "DeiT":
        assert twin.size["height"] == 42 * size // 36


@pytest.mark.parametrize("name", ["ViT", "Bit", "ConvNext", "MobileNetV1", "timm, crop"])
def test_a_squashing_processor_loses_nothing(name):
    spec = InputSpec.from_processor(sized(ALL[name], 40, squash=True))
    assert spec.size == (40, 40) and spec.squashes


def test_a_size_makes_a_processor_without_one_squash():
    twin = sized(transformers.CLIPImageProcessor(do_center_crop=False), 40)
    assert InputSpec.from_processor(twin).squashes and output_size(twin) == (40, 40)


def test_an_augmentation_to_the_models_size_is_left_as_it_is():
    processor = ALL["timm, crop"]  # it would resize again, and crop
    image = _row(36, 36)[0]
    collator = PGGCollator(processor, augment=lambda sample: sample)
    kept = collator.spec.display(collator([{"image": image, "label": 0}])["pixel_values"])[0]
    torch.testing.assert_close(kept, torch.from_numpy(image) / 255, rtol=0, atol=1e-5)
    cropped = collator.for_evaluation()([{"image": image, "label": 0}])["pixel_values"]
    torch.testing.assert_close(cropped, processor(PILImage.fromarray(image))["pixel_values"])
    assert not torch.allclose(collator.spec.display(cropped)[0], kept, atol=0.1)


@pytest.mark.parametrize("name", ["MobileViT", "EfficientNet", "no rescaling", "timm, border"])
def test_values_are_read_by_what_the_processor_does(name):
    spec = InputSpec.from_processor(ALL[name])
    red = torch.zeros(3, 64, 64, dtype=torch.uint8)
    red[0] = 200
    theirs = process(ALL[name], red)[:, 18, 18]
    torch.testing.assert_close(spec.normalize(red)[:, 0, 0], theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(spec.display(spec.normalize(red))[0, 0], torch.tensor([200 / 255, 0, 0]))
