"""What the demo page computes: images read or refused, objects found and moved, checkpoints loaded and asked."""

import shutil

import experiment
import numpy as np
import pytest
import torch
from experiment import Refused, ask, find_object, load_classifier, move, painted_mask, read_mask
from PIL import Image
from transformers import ViTConfig, ViTModel

from hf_pgg.demo_data import digits
from hf_pgg.guidance.engines import input_gradient
from hf_pgg.guidance.forms import share
from hf_pgg.guidance.modes import evaluation_mode
from hf_pgg.localization import classifier as classifiers
from tests.conftest import SIZE, tiny_model
from tests.demo.files import REFUSALS, disc, disc_image, iou, write_checkpoints, write_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, processor):
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"), processor)


# ---------------------------------------------------------------------------------------------- images and objects


@pytest.mark.parametrize("name", REFUSALS)
def test_a_wrong_file_is_refused_by_name_and_reason(name, files):
    with pytest.raises(Refused, match=REFUSALS[name]) as refusal:
        experiment.read_image(files / name)
    assert str(refusal.value).startswith(name)


def test_a_large_image_is_reduced_and_keeps_its_proportions(tmp_path):
    Image.new("RGB", (4096, 1024), (10, 200, 30)).save(tmp_path / "wide.png")
    image = experiment.read_image(tmp_path / "wide.png")
    assert image.shape == (256, 1024, 3) and (image == (10, 200, 30)).all()


def test_a_mask_is_read_at_the_images_size_from_white_or_from_opacity(files, tmp_path):
    assert (read_mask(files / "mask.png", (60, 90)) == disc()).all()
    assert iou(read_mask(files / "mask.png", (120, 180)), disc((120, 180), (60, 120), 28)) > 0.9
    alpha = np.dstack([np.zeros((60, 90, 3), np.uint8), disc().astype(np.uint8) * 255])
    Image.fromarray(alpha).save(tmp_path / "cutout.png")
    assert (read_mask(tmp_path / "cutout.png", (60, 90)) == disc()).all()


@pytest.mark.parametrize(
    ("value", "shape", "message"),
    [(0, (60, 90), "marks nothing"), (255, (60, 90), "covers the whole image"), (255, (90, 90), "proportions")],
)
def test_a_mask_that_leaves_nothing_to_ask_is_refused(value, shape, message, tmp_path):
    Image.fromarray(np.full(shape, value, np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(Refused, match=message):
        read_mask(tmp_path / "mask.png", (60, 90))


def test_paint_becomes_a_mask_at_the_images_size():
    layer = np.zeros((30, 45, 4), np.uint8)
    layer[10:20, 20:30, 3] = 255
    mask = painted_mask([layer], (60, 90))
    assert mask[24:36, 44:56].all() and not mask[:18].any()
    assert painted_mask([layer * 0], (60, 90)) is None and painted_mask([], (60, 90)) is None
    with pytest.raises(Refused, match="The paint covers the whole image"):
        painted_mask([np.full((30, 45, 4), 255, np.uint8)], (60, 90))


def test_the_object_grows_from_paint_or_from_the_middle_to_its_edges():
    aside, central = disc(), disc(centre=(30, 45))
    stroke = np.zeros_like(aside)
    stroke[29:32, 55:66] = True
    assert iou(find_object(disc_image(aside), stroke), aside) > 0.9
    assert iou(find_object(disc_image(central)), central) > 0.9
    everywhere = np.ones_like(aside)
    assert find_object(disc_image(aside), everywhere).all()


def test_moving_leaves_the_object_and_changes_everything_else():
    mask = disc()
    image, scene = disc_image(mask), np.full((200, 200, 3), (20, 40, 250), np.uint8)
    moved = move(image, mask, scene)
    inner, outer = disc(radius=10), ~disc(radius=18)
    assert (moved[inner] == image[inner]).all() and (moved[outer] == (20, 40, 250)).all()


def test_examples_are_digits_with_their_masks(tmp_path):
    examples = experiment.example_digits(tmp_path)
    assert len(examples) == 10
    for image, mask in examples:
        assert read_mask(mask, experiment.read_image(image).shape[:2]).mean() > 0.02
    assert examples[3][0].name == f"digit-{digits('test').features['label'].names[3]}.png"


# ---------------------------------------------------------------------------------------------- checkpoints


def test_an_answer_holds_ranking_gradient_and_the_share_on_the_object(checkpoints):
    classifier = load_classifier(str(checkpoints / "plain"))
    mask = disc((SIZE, SIZE), (16, 20), 8)
    image = disc_image(mask)
    (answer,) = ask(classifier, [image], mask)

    pixels = classifier.spec.normalize(torch.from_numpy(image).permute(2, 0, 1)[None]).requires_grad_()
    with evaluation_mode(classifier.model):
        logits = classifier.model(pixel_values=pixels).logits
        gradient = input_gradient(logits, pixels, logits.argmax(1))
    inside = torch.from_numpy(mask).float()[None, None]
    assert answer.inside == pytest.approx(1 - share(gradient, inside, pixels).item(), rel=1e-4)
    probabilities = logits.softmax(1)[0].detach().numpy()
    assert answer.label == classifier.labels[int(probabilities.argmax())]
    assert [value for _, value in answer.ranking] == pytest.approx(sorted(probabilities, reverse=True), rel=1e-4)


def test_weights_that_are_a_pickle_are_refused(tmp_path, processor):
    model = tiny_model("vit")
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(Refused, match="safetensors"):
        load_classifier(str(tmp_path))


def test_a_backbone_without_a_trained_head_is_refused(tmp_path, processor):
    ViTModel(ViTConfig(image_size=SIZE, hidden_size=24, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path
    )
    processor.save_pretrained(tmp_path)
    with pytest.raises(Refused, match="is a ViTModel, not an image classifier"):
        load_classifier(str(tmp_path))


def test_code_that_comes_with_a_checkpoint_is_not_run(tmp_path, checkpoints):
    folder = shutil.copytree(checkpoints / "plain", tmp_path / "own")
    config = (folder / "config.json").read_text().replace('"convnext"', '"own"', 1)
    config = config.replace("{", '{"auto_map": {"AutoConfig": "own.Config",'
                            ' "AutoModelForImageClassification": "own.Model"},', 1)  # fmt: skip
    (folder / "config.json").write_text(config)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    with pytest.raises(Refused, match="cannot be loaded"):
        load_classifier(str(folder))
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("name", ["../no-such", "/no/such/folder", "a/b/c", "https://example.org/x", "a b"])
def test_a_name_that_is_neither_folder_nor_hub_id_is_refused_without_asking_anybody(name, monkeypatch):
    monkeypatch.setattr(classifiers, "AutoConfig", None)  # would fail if it were asked
    with pytest.raises(Refused, match=r"not a folder with a checkpoint|neither a folder nor a checkpoint"):
        load_classifier(name)
