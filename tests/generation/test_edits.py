"""Edits with provenance: three kinds of pipelines, the masks they leave, and the filters after ALIA."""

import numpy as np
import pytest
import torch
from datasets import load_dataset

pytest.importorskip("diffusers")

from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from hf_pgg import Edit, ProvenanceError
from hf_pgg.data.images import decode_mask, encode_mask, to_rgb
from hf_pgg.data.validation import validate_row
from hf_pgg.generation.edits import EditGeneration, ImageEditor, InpaintingEditor, InstructionEditor
from hf_pgg.generation.filtering import (
    class_thresholds,
    classify,
    clip_agrees,
    filter_summary,
    judge_confidence,
    keep_per_source,
)
from hf_pgg.generation.prompts import Prompts
from hf_pgg.generation.sampling import Request
from hf_pgg.synthesis.edit import unedited_mask
from tests.conftest import tiny_model
from tests.generation import tiny_diffusion

WORK = {"size": 32, "num_inference_steps": 2}


def editor(kind):
    if kind == "image":
        return ImageEditor(pipeline=tiny_diffusion.pipeline(), **WORK)
    if kind == "instruct":
        name = "StableDiffusionInstructPix2PixPipeline"
        return InstructionEditor(pipeline=tiny_diffusion.pipeline(name, in_channels=8), **WORK)
    pipe = tiny_diffusion.pipeline("StableDiffusionInpaintPipeline", in_channels=9)
    return InpaintingEditor(pipeline=pipe, strength=0.9, **WORK)


def edit(photos, folder, sampler, **options):
    options = {"prompts": Prompts(("a {class} in the snow", "a {class} at night")), "versions": 2, **options}
    made = EditGeneration(source=photos, sampler=sampler, folder=str(folder), part_size=8, **options)
    made.run()
    made.store().publish()
    return load_dataset(str(folder), split="train", cache_dir=f"{folder}-cache")


# ---------------------------------------------------------------------------------------------- edits


@pytest.mark.parametrize("kind", ["image", "instruct", "inpaint"])
def test_edits_keep_the_contract_and_lie_on_their_sources(kind, guided_photos, tmp_path):
    photos = guided_photos.select(range(6))
    sampler = editor(kind)
    rows = edit(photos, tmp_path / "out", sampler)
    assert len(rows) == 12 and rows.features["labels"].feature == photos.features["label"]
    for index, row in enumerate(rows):
        validate_row(row, index, num_classes=3)
        source = photos[row["source_row"]]
        before, after = np.asarray(source["image"]), np.asarray(row["image"])
        assert after.shape == before.shape  # of two sizes: batches are split by them, and put in order again
        assert row["labels"] == [source["label"]] and row["pipeline"] == type(sampler.pipeline).__name__
        target, kept = (decode_mask(of["provenance"][0]) for of in (source, row))
        if kind == "inpaint":
            assert np.array_equal(kept, target)
            assert np.array_equal(after[target == 255], before[target == 255])
            assert not np.array_equal(after[target == 0], before[target == 0])
        else:
            assert np.array_equal(kept == 255, (target == 255) & unedited_mask(before, after))


def test_a_row_without_provenance_owns_all_that_an_edit_left_alone(photos, tmp_path):
    rows = edit(photos.select(range(3)), tmp_path / "out", editor("image"), versions=1)
    for row, source in zip(rows, photos, strict=False):
        kept = unedited_mask(np.asarray(source["image"]), np.asarray(row["image"]))
        assert np.array_equal(decode_mask(row["provenance"][0]) == 255, kept)


def test_inpainting_needs_to_know_what_stays(photos, tmp_path):
    with pytest.raises(ValueError, match=r"inpainting needs rows with provenance.*add_provenance"):
        edit(photos, tmp_path / "out", editor("inpaint"))


def test_what_inpainting_repaints_is_all_but_the_targets_of_every_label(photos):
    left, right = np.zeros((2, 32, 32), bool)
    left[:, :8], right[:, 24:] = True, True
    row = {"image": np.full((32, 32, 3), 90, np.uint8), "provenance": [encode_mask(left), encode_mask(right)]}
    inpaint = editor("inpaint")
    (argument,) = inpaint.arguments(np.zeros((1, 32, 32, 3), np.float32), [Request(row, "", 0)])["mask_image"]
    assert np.array_equal(argument == 0, left | right)
    (made,) = inpaint([Request(row, "a wood", 0)])
    assert (made[left | right] == 90).all() and not (made[~(left | right)] == 90).all()


def test_an_edit_struck_by_the_safety_filter_stays_black_under_inpainting(guided_photos):
    pipe = tiny_diffusion.pipeline(
        "StableDiffusionInpaintPipeline", in_channels=9, safety_checker=tiny_diffusion.safety_checker(-2.0)
    )
    (made,) = InpaintingEditor(pipeline=pipe, **WORK)([Request(guided_photos[1], "x", 0)])
    assert not made.any()  # the target put back would hide it


def test_a_pipeline_under_one_prompt_is_an_editor_of_edit(photos):
    sampler = editor("image")
    options = {"editor": sampler.under("a wood at night"), "random": True, "takes_row": True}
    method = Edit(**options, seed=4)
    batch = {"image": photos[:3]["image"], "label": photos[:3]["label"]}
    once, again = method(batch, [0, 1, 2]), method(batch, [0, 1, 2])
    assert once == again and len(once["provenance"]) == 3
    assert once["image"] != Edit(**options, seed=5)(batch, [0, 1, 2])["image"]
    struck = tiny_diffusion.pipeline(safety_checker=tiny_diffusion.safety_checker(-2.0))
    method = Edit(editor=ImageEditor(pipeline=struck, **WORK).under("a wood"), random=True, takes_row=True)
    with pytest.raises(ProvenanceError, match=r"row 0.*the safety filter struck the edit 'a wood'"):
        method(batch, [0, 1, 2])


def test_an_inpainting_is_an_editor_of_edit_and_knows_its_mask_exactly(guided_photos):
    method = Edit(editor=editor("inpaint").under("a wood"), random=True, takes_row=True)
    for before, after in zip(guided_photos.select(range(3)), method.map(guided_photos.select(range(3))), strict=True):
        assert before["provenance"] == after["provenance"]
        inside = np.asarray(before["provenance"][0]) == 255
        assert (to_rgb(after["image"])[inside] == to_rgb(before["image"])[inside]).all()
        assert (to_rgb(after["image"])[~inside] != to_rgb(before["image"])[~inside]).any()


def test_the_working_size_fits_the_network(photos):
    sampler = editor("image")  # a latent is 2 x 2 pixels, and the UNet halves it once
    assert sampler.working_shape((40, 32, 3)) == (40, 32)
    assert sampler.working_shape((375, 500, 3)) == (32, 44)
    assert sampler.working_shape((33, 31, 3)) == (36, 32)


# ---------------------------------------------------------------------------------------------- filters


def test_thresholds_are_the_mean_confidence_in_the_own_class():
    probabilities = np.array([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6]])
    assert class_thresholds(probabilities, np.array([0, 0, 1])).tolist() == pytest.approx([0.7, 0.6])
    with pytest.raises(ValueError, match=r"no real image has label \[1\]"):
        class_thresholds(probabilities, np.array([0, 0, 0]))


def test_confident_edits_are_too_easy_or_failed_and_doubtful_ones_kept():
    probabilities = np.array([[0.8, 0.2], [0.6, 0.4], [0.25, 0.75], [0.35, 0.65], [0.7, 0.3]])
    labels = np.array([0, 0, 0, 1, 1])
    verdicts = judge_confidence(probabilities, labels, np.array([0.7, 0.7]))
    assert verdicts.tolist() == ["too easy", "kept", "failed", "kept", "failed"]


def test_at_most_so_many_edits_of_a_source_are_kept():
    sources, kept = np.array([0, 0, 0, 1, 1, 2]), np.array([True, True, False, True, True, False])
    draws = {tuple(keep_per_source(sources, kept, seed=seed)) for seed in range(40)}
    assert draws == {(0, 3), (0, 4), (1, 3), (1, 4)}
    assert keep_per_source(sources, kept, count=2).tolist() == [0, 1, 3, 4]
    assert keep_per_source(sources, np.zeros(6, bool)).tolist() == []


def test_a_filter_that_empties_a_class_shows():
    table = filter_summary({"failed": np.array([True, True, False])}, np.array([0, 0, 1]), ["a", "b"])
    assert table.splitlines()[2:] == ["| a | 2 | 2 |", "| b | 1 | 0 |"]


def test_probabilities_come_from_any_image_classifier(photos, processor):
    model = tiny_model("vit")
    found = classify(model, processor, photos, batch_size=5)
    with torch.no_grad():
        pixels = processor(images=[image.convert("RGB") for image in photos["image"]], return_tensors="pt")
        expected = model.eval()(**pixels).logits.softmax(1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_clip_keeps_what_is_closest_to_a_positive_prompt(photos):
    torch.manual_seed(0)
    text = tiny_diffusion.text_encoder().config
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=tiny_diffusion.vision_config().to_dict()))
    processor = CLIPProcessor(tiny_diffusion.image_processor(), tiny_diffusion.tokenizer())
    prompts = ["a cat", "a dog", "nothing at all"]
    with torch.no_grad():
        images = [image.convert("RGB") for image in photos["image"]]
        batch = processor(text=prompts, images=images, return_tensors="pt", padding=True)
        closest = model.eval()(**batch).logits_per_image.argmax(1).numpy()
    for positive in (1, 2):
        agrees = clip_agrees(model, processor, photos, prompts[:positive], prompts[positive:], batch_size=7)
        assert np.array_equal(agrees, closest < positive)
    with pytest.raises(ValueError, match="at least one positive and one negative prompt"):
        clip_agrees(model, processor, photos, ["a cat"], [])
