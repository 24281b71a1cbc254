"""A checkpoint answers as it was measured: the trainer's logits are those of the saved folder, loaded afresh."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image as PILImage
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
    pipeline,
)

from hf_pgg import PGGCollator, PGGConfig, PGGTrainer
from hf_pgg.data.annotations import add_provenance
from hf_pgg.data.images import encode_mask
from hf_pgg.localization.classifier import load_classifier
from hf_pgg.localization.score_maps import explain
from hf_pgg.training.checkpoints import complete_model
from tests.conftest import tiny_model

SIZES = (48, 96, 98, 128)
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 4}


def _patches(size):
    return {**TINY, "image_size": size, "patch_size": 14 if size == 98 else 16}


# family -> its image processor, its settings for a size, the sizes that its network takes
FAMILIES = {
    "ViT": ("ViT", _patches, SIZES),
    "DeiT": ("DeiT", _patches, SIZES),
    "Beit": ("Beit", _patches, SIZES),
    "Dinov2": ("Bit", _patches, SIZES),
    "CLIP": ("CLIP", lambda size: {"vision_config": _patches(size), "text_config": TEXT}, SIZES),
    "Siglip": ("Siglip", lambda size: {"vision_config": _patches(size), "text_config": TEXT}, SIZES),
    "ConvNext": ("ConvNext", lambda size: STAGES, SIZES),
    "ConvNextV2": ("ConvNext", lambda size: STAGES, SIZES),
    "ResNet": ("ConvNext", lambda size: {**STAGES, "embedding_size": 8}, SIZES),
    "RegNet": ("ConvNext", lambda size: {**STAGES, "embedding_size": 8, "groups_width": 8}, SIZES),
    "PoolFormer": ("PoolFormer", lambda size: STAGES, SIZES),
    "Swin": (
        "ViT",
        lambda size: {"image_size": size, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
        SIZES,
    ),
    "MobileViT": (
        "MobileViT",
        lambda size: {
            "image_size": size,
            "hidden_sizes": [16, 16, 16],
            "num_attention_heads": 2,
            "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16],
        },
        SIZES,
    ),
    "EfficientNet": (
        "EfficientNet",
        lambda size: {"image_size": size, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
        SIZES,
    ),
    "MobileNetV2": ("MobileNetV2", lambda size: {"depth_multiplier": 0.35, "image_size": size}, SIZES),
    "Levit": (
        "Levit",
        lambda size: {
            "image_size": size,
            "hidden_sizes": [16, 16, 16],
            "num_attention_heads": [1, 1, 1],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        (96, 128),
    ),
}
# architecture -> its preprocessing
TIMM = {
    "test_resnet": {"crop_pct": 0.95, "interpolation": "bicubic"},
    "test_efficientnet": {"crop_pct": 0.875, "interpolation": "bilinear"},
    "test_vit": {"crop_pct": 1.0, "crop_mode": "squash"},
    "test_convnext": {"crop_pct": 0.9, "crop_mode": "squash"},
    "test_byobnet": {"crop_pct": 1.0, "crop_mode": "border"},
    "test_nfnet": {"crop_pct": 0.8, "mean": (0.5,) * 3, "std": (0.5,) * 3},
    "test_mambaout": {"crop_pct": 0.94, "interpolation": "bilinear"},
    "resnet10t": {"crop_pct": 1.15},
}
PER_FAMILY = [(name, sizes[i % len(sizes)]) for i, (name, (_, _, sizes)) in enumerate(FAMILIES.items())]
PER_TIMM = [(name, SIZES[i % 4]) for i, name in enumerate(TIMM)]
ALL = [(name, size) for name, (_, _, sizes) in FAMILIES.items() for size in sizes]
ALL += [(name, size) for name in TIMM for size in SIZES]
DEFAULT = [*PER_FAMILY, *PER_TIMM]
CASES = [pytest.param(*case, marks=[] if case in DEFAULT else pytest.mark.slow) for case in ALL]


def _family(name, size):
    """A tiny untrained classifier made with `num_labels` alone, and the image processor of its family as it comes."""
    torch.manual_seed(0)
    if name in TIMM:
        sized = {"img_size": size, "patch_size": _patches(size)["patch_size"]} if name == "test_vit" else {}
        config = TimmWrapperConfig(architecture=name, num_labels=3, model_args=sized or None)
        model = TimmWrapperForImageClassification(config)
        processor = TimmWrapperImageProcessor(dict(TIMM[name]))
    else:
        kind, settings, _ = FAMILIES[name]
        config = getattr(transformers, f"{name}Config")(**settings(size), num_labels=3)
        model = getattr(transformers, f"{name}ForImageClassification")(config)
        processor = getattr(transformers, f"{kind}ImageProcessor")()
    for weight in model.parameters():  # large enough for an input to matter
        if weight.ndim > 1:
            torch.nn.init.kaiming_normal_(weight)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.ones_(module.weight)
            module.momentum = None  # running statistics of the one pass below
    with torch.no_grad():
        model.train()(pixel_values=torch.randn(8, 3, size, size))
    return model, processor


@pytest.fixture(scope="module")
def rows(photos):
    """Photos that no side fits, with masks."""
    rng = np.random.default_rng(0)

    def enlarged(row, index):
        size = [(97, 150), (150, 101), (128, 128)][index % 3]
        fine = np.asarray(row["image"].resize(size, PILImage.Resampling.BICUBIC)).astype(int)
        noisy = np.clip(fine + rng.integers(-30, 30, fine.shape), 0, 255).astype(np.uint8)
        mask = np.asarray(row["mask"].resize(size, PILImage.Resampling.NEAREST)) > 0
        return {"image": PILImage.fromarray(noisy), "mask": encode_mask(mask)}

    return add_provenance(photos.select(range(3)).map(enlarged, with_indices=True), mask_column="mask")


def _trainer(model, processor, rows, folder, **options):
    args = PGGConfig(output_dir=str(folder), use_cpu=True, report_to=[], disable_tqdm=True, seed=0,
                     per_device_eval_batch_size=1, eval_target_share=False, **options)  # fmt: skip
    return PGGTrainer(model, args, train_dataset=rows, eval_dataset=rows, processing_class=processor)


def _fresh_logits(folder, rows):
    """What a stranger computes with the saved folder: no hf_pgg in it."""
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        return np.concatenate(
            [model(**processor(row["image"], return_tensors="pt")).logits.numpy() for row in rows]
        ), model.config.id2label


@pytest.mark.parametrize(("name", "size"), CASES)
def test_the_trainers_logits_are_those_of_the_saved_folder(name, size, rows, tmp_path):
    model, processor = _family(name, size)
    trainer = _trainer(model, processor, rows, tmp_path, image_size=size)
    measured = trainer.predict(rows).predictions
    trainer.save_model()
    fresh, names = _fresh_logits(tmp_path, rows)
    assert np.ptp(measured, axis=0).max() > 1e-6  # the logits tell the rows apart
    np.testing.assert_allclose(measured, fresh, rtol=1e-3, atol=1e-5 + 1e-3 * np.abs(fresh).max())
    assert names == {0: "a", 1: "b", 2: "c"}  # the data's
    batch = trainer.data_collator([rows[0]])
    assert batch["pixel_values"].shape[-2:] == batch["provenance"].shape[-2:] == (size, size)


@pytest.mark.parametrize("name", ["ConvNext", "test_resnet"])
def test_every_checkpoint_answers_as_it_was_measured(name, rows, tmp_path):
    model, processor = _family(name, 48)
    options = {"image_size": 48, "max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 3, "alpha": 0.0}
    trainer = _trainer(model, processor, rows, tmp_path, learning_rate=1e-2, **options)
    trainer.train()
    np.testing.assert_allclose(
        trainer.predict(rows).predictions, _fresh_logits(tmp_path / "checkpoint-2", rows)[0], rtol=1e-3, atol=1e-4
    )
    assert not np.allclose(*(_fresh_logits(tmp_path / f"checkpoint-{i}", rows)[0] for i in (1, 2)), atol=1e-4)


@pytest.mark.parametrize("name", ["Levit", "test_byobnet"])
def test_explain_and_pipeline_say_what_the_trainer_says(name, rows, tmp_path):
    model, processor = _family(name, 96)
    trainer = _trainer(model, processor, rows, tmp_path, image_size=96)
    measured = torch.from_numpy(trainer.predict(rows).predictions).softmax(1).numpy()
    trainer.save_model()
    images = [np.array(row["image"]) for row in rows]
    explained = explain([load_classifier(str(tmp_path))], images, ["input_gradient"])[str(tmp_path), "input_gradient"]
    classify = pipeline("image-classification", model=str(tmp_path), device="cpu")
    for row, probabilities, result in zip(rows, measured, explained, strict=True):
        said = {answer["label"]: answer["score"] for answer in classify(row["image"], top_k=3)}
        np.testing.assert_allclose([said[name] for name in "abc"], probabilities, atol=1e-4)
        np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-4)
        assert result.score_map.shape == (96, 96)


def test_a_collators_processor_is_the_one_that_is_saved(rows, tmp_path):
    model, processor = _family("ViT", 48)
    args = PGGConfig(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    collator = PGGCollator(processor, image_size=48)
    PGGTrainer(model, args, train_dataset=rows, data_collator=collator).save_model()
    assert AutoImageProcessor.from_pretrained(tmp_path).size["height"] == 48 and processor.size["height"] == 224


@pytest.mark.parametrize("own", [{0: "cat", 1: "dog", 2: "fox"}, {0: "LABEL_0", 1: "mine", 2: "LABEL_2"}])
def test_names_of_ones_own_are_not_overwritten(own):
    model, _ = _family("ConvNext", 48)
    model.config.id2label = dict(own)
    complete_model(model, None, ["a", "b", "c"])
    assert model.config.id2label == own


def test_names_of_another_number_of_classes_are_not_taken():
    model, _ = _family("ConvNext", 48)
    complete_model(model, None, ["a", "b"])
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


def test_a_timm_checkpoint_with_a_new_head_forgets_the_names_of_the_old_one(rows, tmp_path):
    model, processor = _family("test_resnet", 48)
    model.config.label_names = [f"imagenet {i}" for i in range(1000)]
    _trainer(model, processor, rows, tmp_path, image_size=48).save_model()
    told = json.loads((tmp_path / "config.json").read_text())
    assert told["label_names"] == ["a", "b", "c"] and told["pretrained_cfg"]["input_size"] == [3, 48, 48]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_cast_with_one_line(dtype, rows, tmp_path, caplog):
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    trainer = _trainer(tiny_model("vit").to(dtype), processor, rows, tmp_path)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    (line,) = [record.message for record in caplog.records if "float32" in record.message]
    assert str(dtype).removeprefix("torch.") in line and "dtype='float32'" in line
    trainer.save_model()
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
