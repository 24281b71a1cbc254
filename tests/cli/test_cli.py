"""The command line as a user has it: what it writes and prints, and one sentence and code 2 where it cannot."""

import argparse
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image as PILImage
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from hf_pgg import CutMix, add_provenance
from hf_pgg.cli import card, choices, explain, localize, preview
from hf_pgg.cli import main as cli
from hf_pgg.cli.preview import _synthesized
from hf_pgg.data.boxes import corners
from hf_pgg.data.formats import FORMATS
from hf_pgg.data.images import encode_png, to_rgb, undecoded
from hf_pgg.data.loading import open_dataset
from hf_pgg.localization.attribution import METHODS
from hf_pgg.localization.classifier import CheckpointError, load_classifier
from hf_pgg.metrics.boxes import pairwise_iou
from hf_pgg.reports.sheets import sample_sheet, sheet_samples
from hf_pgg.synthesis.by_name import SYNTHESES
from tests.conftest import tiny_model


def run(capsys, *arguments):
    """What is printed."""
    cli.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def refused(capsys, *arguments):
    """The sentence of a refusal."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


def size_of(path):
    with PILImage.open(path) as image:
        assert image.format == "PNG" and len(set(image.convert("L").getdata())) > 50
        return image.size


@pytest.fixture(scope="module")
def checkpoints(processor, tmp_path_factory):
    """`plain` and `guided`, two classifiers of other weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(("plain", "guided")):
        model = tiny_model("vit", seed=seed)
        model.config.id2label, model.config.label2id = {0: "cat", 1: "dog", 2: "fox"}, {"cat": 0, "dog": 1, "fox": 2}
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i, size in enumerate([(40, 32), (24, 60)]):
        noise = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        PILImage.fromarray(noise).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def data(photos, tmp_path_factory):
    """The photos as a parquet file, a saved data set, and a folder of parquet."""
    folder = tmp_path_factory.mktemp("data")
    photos.to_parquet(folder / "photos.parquet")
    DatasetDict(train=photos).save_to_disk(folder / "saved")
    (folder / "folder").mkdir()
    photos.to_parquet(folder / "folder" / "train.parquet")
    return folder


# ---------------------------------------------------------------------------------------------- help


def test_help_teaches_with_examples(capsys):
    for arguments, words in {
        ("--help",): "hf-pgg explain out/plain cat.jpg --against out/guided",
        ("preview", "--help"): "--mask_column mask --synthesis cutmix",
        ("explain", "--help"): "--method grad_cam attention_rollout",
        ("localize", "--help"): "hf-pgg localize facebook/deit-tiny-patch16-224 photos/",
        ("card", "--help"): "hf-pgg card out/train_cls/guided",
    }.items():
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0 and words in capsys.readouterr().out


@pytest.mark.parametrize(
    "examples",
    [command.EXAMPLES for command in (cli, preview, explain, localize, card)],
    ids=["all", "preview", "explain", "localize", "card"],
)
def test_every_example_in_the_help_can_be_parsed(examples):
    commands = [line.strip() for line in examples.splitlines() if line.strip().startswith("hf-pgg")]
    assert commands
    for command in commands:
        arguments = shlex.split(command.partition("   ")[0])[1:]
        cli._parser().parse_args(arguments)


def test_a_misspelt_command_is_refused_in_a_line(capsys):
    for arguments, words in {
        (): "hf-pgg: the following arguments are required: COMMAND",
        ("preview", "--synthesis", "mixcut"): "hf-pgg preview: argument --synthesis: invalid choice: 'mixcut' (choose",
        ("localize", "out", "in", "--method", "camera"): "hf-pgg localize: argument --method: invalid choice: 'camera'",
        ("localize", "out", "in", "--threshold", "1"): "hf-pgg localize: --threshold 1.0 is not in [0, 1): give a",
    }.items():
        error = refused(capsys, *arguments)
        assert error.startswith(words) and error.count("\n") == 1


def test_what_the_parsers_offer_is_what_the_library_has():
    assert tuple(METHODS) == choices.MAPS and (*SYNTHESES, "none") == choices.SYNTHESES and FORMATS == choices.FORMATS


# ---------------------------------------------------------------------------------------------- preview


def test_preview_of_the_embedded_data(capsys, tmp_path, monkeypatch, guided_photos):
    monkeypatch.setattr(
        "hf_pgg.demo_data.digits_on_photographs", lambda: DatasetDict(train=guided_photos)
    )  # it takes seconds
    out = run(capsys, "preview", "--count", 3, "--output", tmp_path / "new" / "sheet.png")
    assert "digits on photographs, train: 3 of 24 rows, Composite, seed 0" in out and "objects cover" in out
    width, height = size_of(tmp_path / "new" / "sheet.png")
    assert width > 3 * height / 2


@pytest.mark.parametrize("kind", ["photos.parquet", "saved", "folder"])
@pytest.mark.parametrize("synthesis", ["cutmix", "exchange"])
def test_preview_of_own_images_with_masks(kind, synthesis, data, capsys, tmp_path):
    out = run(capsys, "preview", data / kind, "--mask_column", "mask", "--synthesis", synthesis, "--count", 2,
              "--output", tmp_path / "sheet.png")  # fmt: skip
    assert "2 of 24 rows" in out
    size_of(tmp_path / "sheet.png")


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_preview_by_annotations_beside_a_folder(kind, annotated_folder, photos, capsys, tmp_path):
    named = {"coco": ("instances_{split}.json",), "yolo": ("labels_{split}", "--class_names", "a", "b", "c")}[kind]
    options = ("--annotations", annotated_folder / named[0], "--annotation_format", kind, *named[1:], "--count", 2)
    out = run(capsys, "preview", annotated_folder / "{split}", "--split", "test", *options, "--synthesis", "exchange",
              "--output", tmp_path / "sheet.png")  # fmt: skip
    assert "2 of 8 rows" in out and "objects cover" in out
    gone = ("--annotations", tmp_path / "gone.json", "--output", tmp_path / "none.png")
    assert "gone.json does not exist" in refused(capsys, "preview", annotated_folder / "test", *gone)


def test_the_samples_are_those_of_training(guided_photos):
    """Rows 0, 11 and 23 of `map` over everything, though three rows alone are synthesized."""
    method = CutMix(source=guided_photos, seed=5)
    shown = _synthesized(method, guided_photos, 3)
    whole = CutMix(source=guided_photos, seed=5).map(guided_photos)
    assert shown.column_names == whole.column_names
    for row, index in zip(shown, (0, 11, 23), strict=True):
        assert np.array_equal(to_rgb(row["image"]), to_rgb(whole[index]["image"]))
        assert row["label_weights"] == whole[index]["label_weights"]


def test_a_sheet_shows_words_masks_and_their_absence(photos, guided_photos):
    mixed = sheet_samples(CutMix(source=guided_photos).map(guided_photos.select(range(2))))
    bare = sheet_samples(photos.select(range(1)))
    assert bare[0].coverage is None and 0 < mixed[0].coverage < 1
    figure = sample_sheet([*mixed, *bare], "a title", columns=2)
    titles = [axes.get_title() for part in figure.subfigs for axes in part.axes]
    assert titles[0].count("%)") == 2 and titles[1].endswith("% object")
    assert titles[4:] == ["a", "no provenance"] and figure.get_suptitle() == "a title"


def test_rows_without_provenance_are_counted(data, capsys, tmp_path):
    out = run(
        capsys, "preview", data / "saved", "--synthesis", "none", "--output", tmp_path / "sheet.png", "--count", 2
    )
    assert "2 of 2 have no provenance, and would not be guided" in out and "objects cover" not in out


def test_preview_refuses_in_a_sentence(data, capsys, tmp_path):
    saved = data / "saved"
    (tmp_path / "notes.txt").write_text("no data")
    for arguments, words in (
        ((tmp_path / "absent",), "absent does not exist"),
        ((tmp_path / "notes.txt",), "notes.txt is neither a parquet file nor a folder"),
        ((saved, "--split", "dev"), "there is no split 'dev': choose train"),
        ((saved,), "--synthesis composite needs to know the object: give --mask_column or --box_column"),
        ((saved, "--mask_column", "mask"), "--synthesis composite needs --backgrounds"),
        ((saved, "--mask_column", "masks"), "column 'masks' is not in the dataset"),
        ((saved, "--synthesis", "cutmix", "--count", "99"), "a sheet holds 1 to 24 samples"),
        (("nobody/nothing",), "nobody/nothing"),
    ):
        error = refused(capsys, "preview", *arguments, "--output", tmp_path / "sheet.png")
        assert error.startswith("hf-pgg preview: ") and words in error and error.count("\n") == 1
    assert not (tmp_path / "sheet.png").exists()


def test_a_mask_of_another_size_is_named(photos, data, capsys, tmp_path):
    wrong = add_provenance(photos, mask_column="mask").map(lambda row: {"image": row["image"].resize((8, 8))})
    wrong.save_to_disk(tmp_path / "wrong")
    error = refused(capsys, "preview", tmp_path / "wrong", "--synthesis", "none", "--output", tmp_path / "sheet.png")
    assert "row 0, column 'provenance': mask of" in error


def test_a_data_set_saved_without_splits_can_be_opened(photos, tmp_path):
    photos.save_to_disk(tmp_path / "rows")
    assert open_dataset(str(tmp_path / "rows")).column_names == photos.column_names


# ---------------------------------------------------------------------------------------------- explain


def test_explain_prints_what_two_checkpoints_say_and_draws_where_they_look(checkpoints, images, capsys, tmp_path):
    plain, guided = checkpoints / "plain", checkpoints / "guided"
    out = run(capsys, "explain", plain, images, "--against", guided, "--method", "input_gradient", "grad_cam",
              "--output", tmp_path / "sheet.png")  # fmt: skip
    lines = out.splitlines()
    assert lines[0].endswith("0.png") and lines[1].split()[0] == "plain" and lines[2].split()[0] == "guided"
    classifier = load_classifier(str(plain))
    pixels = classifier.spec.squash(torch.from_numpy(to_rgb(str(images / "0.png"))).permute(2, 0, 1))
    with torch.no_grad():
        shares = classifier.model(pixel_values=classifier.spec.normalize(pixels[None])).logits.softmax(1)[0]
    best = int(shares.argmax())
    assert lines[1].split()[1:3] == [classifier.labels[best], f"{shares[best]:.2f},"]
    width, height = size_of(tmp_path / "sheet.png")
    assert width > 2 * height


def test_a_class_is_explained_by_name(checkpoints, images, capsys, tmp_path):
    image, sheet = images / "0.png", tmp_path / "sheet.png"
    run(capsys, "explain", checkpoints / "plain", image, "--target", "fox", "--output", sheet)
    by_name = sheet.read_bytes()
    run(capsys, "explain", checkpoints / "plain", image, "--target", "2", "--output", sheet)
    assert sheet.read_bytes() == by_name
    run(capsys, "explain", checkpoints / "plain", image, "--target", "cat", "--output", sheet)
    assert sheet.read_bytes() != by_name


def test_explain_refuses_in_a_sentence(checkpoints, images, processor, capsys, tmp_path):
    plain = checkpoints / "plain"
    broken, notes = tmp_path / "broken.png", tmp_path / "notes.txt"
    broken.write_bytes((images / "0.png").read_bytes()[:200])
    notes.write_text("a note")
    for arguments, words in (
        ((plain, tmp_path / "absent.png"), "absent.png does not exist"),
        ((plain, notes), "notes.txt is not an image that can be read"),
        ((plain, broken), "broken.png is not an image that can be read"),
        ((plain, *[images / "0.png"] * 25), "25 images: a sheet holds 24; name fewer, or use `hf-pgg localize"),
        ((plain, images, "--target", "cow"), "has no class 'cow'; its 3 classes are cat, dog, fox"),
        ((plain, images, "--method", "cam"), "use `grad_cam`"),
        ((tmp_path / "absent", images), "absent is not a folder with a checkpoint"),
        ((images, images), "is not a checkpoint: it holds no config.json"),
        (("nobody/nothing", images), "nobody/nothing is neither a folder nor a checkpoint that could be had"),
    ):
        error = refused(capsys, "explain", *arguments, "--output", tmp_path / "sheet.png")
        assert error.startswith("hf-pgg explain: ") and words in error and error.count("\n") == 1, error
    assert not (tmp_path / "sheet.png").exists()


# ---------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_that_is_no_classifier_is_refused(processor, tmp_path):
    """Without the check a head is drawn at random, and its answers look like any other's."""
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTModel(ViTConfig(**small, image_size=16, patch_size=8)).save_pretrained(tmp_path / "vit")
    processor.save_pretrained(tmp_path / "vit")
    BertModel(BertConfig(**small, vocab_size=10)).save_pretrained(tmp_path / "bert")
    for name, found in (("vit", "ViTModel"), ("bert", "BertModel")):
        with pytest.raises(CheckpointError, match=f"{name} is a {found}, not an image classifier"):
            load_classifier(str(tmp_path / name))


def test_a_classifier_without_its_head_is_refused(checkpoints, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in (checkpoints / "plain").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "classifier" not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(CheckpointError, match=r"lacks the weights of classifier.bias \(2 in all\): it was not trained"):
        load_classifier(str(tmp_path))


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_pickled_weights_are_refused_and_never_read(checkpoints, images, capsys, tmp_path):
    bomb = Bomb()
    bomb.path = str(tmp_path / "went-off")
    folder = tmp_path / "pickled"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((checkpoints / "plain" / name).read_bytes())
    torch.save(bomb, folder / "pytorch_model.bin")
    for command in ("explain", "localize"):
        error = refused(capsys, command, folder, images)
        assert "pytorch_model.bin is pickled, and unpickling can run any code" in error
    assert not (tmp_path / "went-off").exists()


def test_code_in_a_repository_is_never_run(checkpoints, tmp_path):
    for file in (checkpoints / "plain").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    auto = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Model"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "of-its-own", "auto_map": auto}))
    (tmp_path / "code.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'went-off')!r}).touch()")
    with pytest.raises(CheckpointError, match="cannot be loaded as an image classifier"):
        load_classifier(str(tmp_path))
    assert not (tmp_path / "went-off").exists()


# ---------------------------------------------------------------------------------------------- localize, card


def test_localize_is_the_box_writer(checkpoints, images, capsys, tmp_path):
    boxes = tmp_path / "boxes.json"
    out = run(capsys, "localize", checkpoints / "plain", images, "--output", boxes)
    assert "2 boxes written to" in out and len(json.loads(boxes.read_text())["annotations"]) == 2


def test_localize_says_how_many_boxes_meet_an_annotated_one(checkpoints, annotated_folder, capsys, tmp_path):
    known = ("--annotations", annotated_folder / "instances_test.json", "--output", tmp_path / "boxes.json")
    folder, overlays = annotated_folder / "test", ("--overlays", tmp_path / "overlays")
    out = run(capsys, "localize", checkpoints / "plain", folder, *known, *overlays)
    found = json.loads((tmp_path / "boxes.json").read_text())
    truth = json.loads((annotated_folder / "instances_test.json").read_text())
    of = {image["file_name"]: own["bbox"] for image, own in zip(truth["images"], truth["annotations"], strict=True)}
    met = 0
    for image, own in zip(found["images"], found["annotations"], strict=True):
        met += pairwise_iou(corners([own["bbox"]]), corners([of[Path(image["file_name"]).name]]))[0, 0] >= 0.5
    assert f"{met} boxes of 8 annotated images meet an annotated one" in out
    error = refused(capsys, "localize", checkpoints / "plain", folder / "8.png", *known)
    assert "are of one folder of images" in error


def test_localize_names_bad_files_and_goes_on(checkpoints, images, capsys, tmp_path, monkeypatch):
    """A bomb, PostScript under another name, a text, 12 bits in 16, and names as long as a file system takes."""
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 60 * 60)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("an interpreter was started"))
    folder = tmp_path / "images"
    folder.mkdir()
    PILImage.new("L", (200, 200)).save(folder / "bomb.png")
    (folder / "drawing.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    (folder / "notes.png").write_text("a note")
    PILImage.fromarray(np.full((32, 32), 4000, np.uint16)).save(folder / "scan.png")
    (folder / "folder.png").mkdir()
    for name in ("a" * 247, "ä" * 123):
        (folder / f"{name}.png").write_bytes((images / "0.png").read_bytes())
    boxes, overlays = tmp_path / "boxes.json", tmp_path / "overlays"
    with pytest.raises(SystemExit, match="4 of 6 images could not be read"):
        run(capsys, "localize", checkpoints / "plain", folder, "--output", boxes, "--overlays", overlays)
    out = capsys.readouterr().out
    for words in (
        "bomb.png: not read, the image is too large",
        "drawing.png: not read, the image cannot be decoded (it is no PNG",
        "notes.png: not read, ",
        "scan.png: not read, the image holds uint16 values from 4000 to 4000",
    ):
        assert words in out
    coco = json.loads(boxes.read_text())
    assert [Path(image["file_name"]).stem[0] for image in coco["images"]] == ["a", "ä"]
    assert sorted(file.name[:7] for file in overlays.iterdir()) == ["00000_a", "00001_ä"]
    with pytest.raises(SystemExit, match="3 of 6"):
        run(capsys, "localize", checkpoints / "plain", folder, "--output", boxes, "--white", "4095")
    capsys.readouterr()
    error = refused(capsys, "explain", checkpoints / "plain", folder / "bomb.png")
    assert "bomb.png is not an image that can be read (the image is too large" in error and error.count("\n") == 1


def test_preview_names_the_row_of_a_bad_image(photos, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 60 * 60)
    bomb = encode_png(np.zeros((200, 200), np.uint8))
    rows = [
        {**row, "image": bomb if i == 1 else row["image"]} for i, row in enumerate(undecoded(photos.select(range(4))))
    ]
    Dataset.from_list(rows, features=photos.features).to_parquet(tmp_path / "photos.parquet")
    capsys.readouterr()
    data = tmp_path / "photos.parquet"
    for synthesis in ("none", "cutmix", "composite"):
        error = refused(capsys, "preview", data, "--mask_column", "mask", "--synthesis", synthesis, "--backgrounds",
                        data, "--output", tmp_path / "sheet.png")  # fmt: skip
        assert "row 1, column '" in error and "too large" in error and error.count("\n") == 1


def test_localize_maps_by_what_guidance_improves(checkpoints, images, capsys, tmp_path):
    default, named = tmp_path / "default.json", tmp_path / "named.json"
    run(capsys, "localize", checkpoints / "plain", images, "--output", default)
    run(capsys, "localize", checkpoints / "plain", images, "--output", named, "--method", "input_gradient")
    assert default.read_text() == named.read_text()


def test_card_writes_the_card_of_a_run_and_of_a_comparison(record, capsys, tmp_path):
    folder = tmp_path / "guided"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(record))
    assert f"written: {folder / 'README.md'}" in run(capsys, "card", folder)
    card = (folder / "README.md").read_text()
    assert run(capsys, "card", folder / "results.json", "--output", "-").strip() == card.strip()
    assert "give --overwrite to replace it" in refused(capsys, "card", folder)
    (folder / "README.md").write_text("old")
    run(capsys, "card", folder, "--overwrite")
    assert (folder / "README.md").read_text() == card
    plain = {**record, "model": {**record["model"], "name": "plain"}}
    (tmp_path / "results.json").write_text(json.dumps([record, plain]))
    run(capsys, "card", tmp_path, "--overwrite")
    assert (tmp_path / "plain" / "README.md").read_text().count("# plain") == 1


def test_card_refuses_in_a_sentence(capsys, tmp_path):
    for content, words in (
        (None, "results.json does not exist: a run's record is the results.json that the recipes write"),
        ("{", "is not JSON"),
        ('{"model": {"name": "a"}}', "is not the record of a run: 'data' is missing"),
        ("[1]", "is not the record of a run"),
        ("3", "is not the record of a run"),
    ):
        if content is not None:
            (tmp_path / "results.json").write_text(content)
        error = refused(capsys, "card", tmp_path)
        assert error.startswith("hf-pgg card: ") and words in error and error.count("\n") == 1
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("name", ["../../../x", "/tmp/elsewhere", "a/b", "..", ""])
def test_a_card_is_written_beside_its_record_alone(name, record, tmp_path):
    record["model"]["name"] = name
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps([record]))
    with pytest.raises(ValueError, match="is not that of a folder beside it, so nothing is written"):
        card._run(argparse.Namespace(results=str(folder), output=None, overwrite=True))
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["results.json"]


@pytest.mark.parametrize("change", [{"model": 3}, {"method": "plain"}, {"results": [1]}, {"environment": {}},
                                    {"groups": {"rows": [{"name": "a"}]}}, {"comparison": 7}])  # fmt: skip
def test_a_record_of_other_kinds_is_refused_in_a_line(change, record, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(ValueError, match=r"results\.json is not the record of a run") as refused:
        card._run(argparse.Namespace(results=str(tmp_path), output="-", overwrite=False))
    assert "\n" not in str(refused.value)
