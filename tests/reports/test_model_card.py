"""The model card: every number comes from the record beside it, every snippet runs, the Hub understands it."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset, load_from_disk
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from PIL import Image as PILImage
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEVideoProcessor

from hf_pgg import Composite, CutMix, PGGConfig, PGGTrainer
from hf_pgg.cli import main as cli
from hf_pgg.data.frame_sampling import uniform_indices
from hf_pgg.data.video import encode_clip
from hf_pgg.reports.model_card import METRIC_NAMES, model_card
from hf_pgg.reports.record import (
    _without_secrets,
    comparison_rows,
    environment,
    hub_id,
    hub_source,
    run_record,
    synthesis_settings,
)
from tests.conftest import SIZE, tiny_model
from tests.hub.server import client
from tests.hub.server import environment as hub_environment

ROOT = Path(__file__).resolve().parents[2]
MISSING = re.compile(r"None|More information needed|Undefined|\[\]\(\)|\{\{|\{%")


@pytest.fixture
def localized(record):
    """A record of images with boxes."""
    found = {"max_box_acc_v2": 0.7012, "best_threshold": 0.31}
    record["localization"] = {
        "map": "grad_cam",
        "threshold": 0.31,
        "selection": {"grad_cam": found, "cam": {**found, "max_box_acc_v2": 0.65}},
        "test": {"grad_cam": {"max_box_acc_v2": 0.688}, "cam": {"max_box_acc_v2": 0.6}},
    }
    record["data"]["arguments"]["smoothing"] = 0.05
    record["results"] |= {"max_box_acc": 0.71, "max_box_acc_v2": 0.688, "pixel_average_precision": 0.55}
    return record


@pytest.fixture
def of_clips(record):
    record["task"] = "video-classification"
    record["method"]["num_frames"] = 4
    record["results"] = {"accuracy": 0.75, "frame_mAP@0.5": 61.24, "video_mAP@0.5": 40.06, "video_mAP@0.5:0.95": 12.3}
    record["comparison"] = [{"method": "plain", "accuracy": 0.5}, {"method": "guided", **record["results"]}]
    record["localization"] = {"map": "grad_cam", "threshold": 0.3, "selection": {"grad_cam at 0.3": 58.25}}
    return record


@pytest.fixture
def seeded(record):
    """As of a comparison of two methods with three seeds."""
    runs = []
    for seed in range(3):
        for name, gain in (("plain", 0.0), ("guided", 0.2)):
            run = copy.deepcopy(record)
            run["method"] |= {"name": name, "seed": seed}
            run["results"] |= {"accuracy": 0.5 + gain + 0.01 * seed, "worst_group_accuracy": 0.1 + gain}
            runs.append(run)
    return {**runs[1], "comparison": comparison_rows(runs)}


def snippet_of(card):
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


def numbers_in(value):
    """Every number that a record holds, in its texts too."""
    if isinstance(value, dict):
        return {number for part in (*value.values(), *value) for number in numbers_in(part)}
    if isinstance(value, (list, tuple)):
        return {number for part in value for number in numbers_in(part)} | {float(len(value))}
    if isinstance(value, str):
        return {float(text) for text in re.findall(r"\d+(?:\.\d+)?", value)}
    return set() if value is None or isinstance(value, bool) else {float(value)}


# ---------------------------------------------------------------------------------------------- what it states


def test_the_card_states_the_record_and_the_hub_can_read_it(record, tmp_path):
    model_card(record).save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    data = card.data
    assert data.base_model == "some/model" and data.pipeline_tag == "image-classification"
    assert data.library_name == "transformers" and data.datasets == ["some/data"]
    assert data.metrics == ["accuracy", "worst_group_accuracy"] and "hf_pgg" in data.tags
    assert {result.metric_type: result.metric_value for result in data.eval_results} == {
        "accuracy": 0.8123,
        "worst_group_accuracy": 0.61,
    }
    assert {result.dataset_revision for result in data.eval_results} == {"d" * 40}
    for words in ("0.610 (0.500 to 0.700)", "| plain | 0.500 |", "alpha 10.0", "fingerprint `abc`", "seed 3",
                  f"at revision `{'d' * 40}`", "![Samples](samples.png)", "torch ", "| a, scene | 0.610 (0.500 to",
                  "(label on place)", "bias `0.9`", "method `CutMix`, alpha `1.0`", "Training time: 9 s on",
                  record["environment"]["command"], record["environment"]["device"]):  # fmt: skip
        assert words in card.content, words
    assert card.text.index("| a, scene |") < card.text.index("| a, other |"), "the worst group comes first"
    assert not MISSING.search(card.text)


@pytest.mark.parametrize("kind", ["record", "localized", "of_clips", "seeded"])
def test_every_number_comes_from_the_record(kind, request):
    record = request.getfixturevalue(kind)
    known = numbers_in(record) | numbers_in(list(METRIC_NAMES.values()))
    known |= {95.0, 2.0, 1.0, 24.0}  # the interval's confidence, and those of the snippet for clips
    text = model_card(record).text
    stated = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])", text)
    assert len(stated) > 30
    for number in stated:
        digits = len(number.partition(".")[2])
        assert any(f"{value:.{digits}f}" == number for value in known), f"{number} is not in the record"


def test_seeds_are_told_with_their_spread(seeded):
    text = model_card(seeded).text
    assert "mean and standard deviation over 3 seeds" in text
    assert "| plain | 0.510 ± 0.010 | 0.100 ± 0.000 |" in text and "| guided | 0.710 ± 0.010 |" in text
    assert "One seed" not in text and "This checkpoint is that of seed 0" in text


def test_localization_is_told_with_what_was_tried(localized):
    card = model_card(localized)
    for words in ("`grad_cam` map above 0.31 of its range", "| cam | 0.650 | 0.600 |", "| PxAP | 0.550 |",
                  "take the best threshold of the test split itself"):  # fmt: skip
        assert words in card.text, words
    assert "localization" in card.data.tags


def test_clips_have_their_own_task_snippet_and_units(of_clips):
    card = model_card(of_clips)
    assert card.data.pipeline_tag == "video-classification"
    for words in ("# guided\n\nA classifier of clips", "AutoModelForVideoClassification", "clip.mp4", "(5 clips)",
                  "| Frame-mAP at IoU 0.5 | 61.2 % |", "| grad_cam at 0.3 | 58.2 % |", "32 px, 4 frames",
                  "a tube around the largest part"):  # fmt: skip
        assert words in card.text, words
    assert "image" not in card.text


def test_what_is_absent_is_left_out(record):
    for part in ("task", "results", "groups", "comparison", "figures", "synthesis", "collapsed_at"):
        del record[part]
    record["model"] = {"name": "mine", "base_model": None}
    record["data"] = {"name": None, "fingerprint": None, "train_rows": None, "test_rows": None, "classes": None}
    record["method"] |= {"synthesis": None, "train_seconds": None}
    record["environment"] |= {"git_revision": None}
    card = model_card(record)
    assert not MISSING.search(card.text) and "## Results" not in card.text and "Git revision" not in card.text
    assert "Nothing was measured yet" in card.text
    assert card.data.eval_results is None and card.data.datasets is None and card.data.base_model is None


@pytest.mark.parametrize("part", ["model", "data", "method", "environment"])
def test_a_record_that_lacks_a_part_writes_no_card(part, record):
    del record[part]
    with pytest.raises(KeyError, match=part):
        model_card(record)


def test_a_failed_run_says_so(record):
    assert "This run failed" not in model_card(record).content
    assert "chance at step 40" in model_card({**record, "collapsed_at": 40}).content


def test_many_groups_are_cut_to_the_worst(record):
    group = record["groups"]["rows"][0]
    record["groups"]["rows"] = [{**group, "name": f"g{i}", "accuracy": 1 - i / 100} for i in range(40)]
    text = model_card(record).text
    assert "The 30 worst of 40 groups" in text and "| g39 |" in text and "| g9 |" not in text


def test_names_of_local_folders_stay_out_of_the_metadata(record, tmp_path):
    """The Hub refuses a card whose base model or data set is no repository's name."""
    folder = tmp_path / "home" / "photos"
    folder.mkdir(parents=True)
    assert hub_id(str(folder)) is hub_id("digits on photographs") is hub_id(None) is None
    assert hub_id("some/model") == "some/model" and hub_id("gpt2") == "gpt2"
    record["model"] |= {"base_model": str(folder), "base_repo": None}
    record["data"] |= {"name": str(folder), "repo": None, "arguments": {"dataset_name": str(folder)}}
    card = model_card(record)
    assert card.data.base_model is None and card.data.datasets is None
    assert "`photos` (a local folder)" in card.text and str(tmp_path) not in card.content.split("## Reproduce")[0]


# ---------------------------------------------------------------------------------------------- snippets


def test_the_snippet_for_images_runs_as_written(record, processor, tmp_path, monkeypatch, capsys):
    model = tiny_model("vit")
    model.save_pretrained(tmp_path / "guided")
    processor.save_pretrained(tmp_path / "guided")
    PILImage.effect_noise((50, 40), 60).convert("RGB").save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    exec(snippet_of(model_card(record).content), {})
    answers = eval(capsys.readouterr().out)
    assert {answer["label"] for answer in answers} == set(model.config.id2label.values())


def test_the_snippet_for_clips_runs_as_written(of_clips, tmp_path, monkeypatch, capsys):
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(
        VideoMAEConfig(**shape, image_size=SIZE, patch_size=8, num_frames=4, num_labels=3)
    ).eval()
    processor = VideoMAEVideoProcessor(size={"height": SIZE, "width": SIZE}, do_center_crop=False)
    model.save_pretrained(tmp_path / "guided")
    processor.save_pretrained(tmp_path / "guided")
    frames = np.random.default_rng(0).integers(0, 256, (11, 48, 64, 3), dtype=np.uint8)
    (tmp_path / "clip.mp4").write_bytes(encode_clip(frames)["bytes"])
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(snippet_of(model_card(of_clips).content), scope)
    answers = eval(capsys.readouterr().out)
    read = np.stack(scope["frames"])
    assert np.array_equal(scope["chosen"], read[uniform_indices(len(read), 4)]), "as the sampler of training takes them"
    with torch.no_grad():
        expected = model(**processor(scope["chosen"], return_tensors="pt")).logits.softmax(-1)[0].tolist()
    assert list(answers.values()) == pytest.approx(expected, abs=1e-3)


def test_the_command_for_boxes_runs_as_written(localized, processor, tmp_path, monkeypatch):
    tiny_model("convnext").save_pretrained(tmp_path / "guided")
    processor.save_pretrained(tmp_path / "guided")
    (tmp_path / "images").mkdir()
    PILImage.effect_noise((50, 40), 60).convert("RGB").save(tmp_path / "images" / "a.png")
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^hf-pgg (localize .*)$", model_card(localized).content, re.MULTILINE)
    cli.main(command.split())
    assert len(json.loads((tmp_path / "boxes.json").read_text())["annotations"]) == 1


# ---------------------------------------------------------------------------------------------- the record


def test_the_record_of_a_training_run(guided_photos, processor, tmp_path):
    method = CutMix(source=guided_photos, seed=4)
    args = PGGConfig(output_dir=str(tmp_path / "mine"), alpha=2.0, max_steps=2, per_device_train_batch_size=4,
                     use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", seed=7)  # fmt: skip
    trainer = PGGTrainer(tiny_model("vit"), args, train_dataset=method.map(guided_photos), processing_class=processor)
    trainer.train()
    record = run_record(trainer, {"accuracy": 0.25}, method="mixed", data_name="photos of mine", test_rows=24,
                        train_seconds=1.5, synthesis_settings=synthesis_settings(method))  # fmt: skip
    record = json.loads(json.dumps(record))
    assert record["method"]["steps"] == 2 and record["method"]["seed"] == 7 and record["method"]["alpha"] == 2.0
    assert record["data"]["classes"] == ["a", "b", "c"] and record["data"]["repo"] is None
    assert record["synthesis"] == {
        "method": "CutMix",
        "seed": 4,
        "epoch": 0,
        "label_column": "label",
        "version": 1,
        "image_column": "image",
        "source": f"24 rows (fingerprint {guided_photos._fingerprint})",
        "alpha": 1.0,
    }
    assert "Synthesis settings: method `CutMix`, seed `4`" in model_card(record).text


def test_settings_of_a_method_are_json(photos):
    settings = synthesis_settings(Composite(backgrounds=photos, mask_column="mask", scale=(0.4, 0.6)))
    assert json.loads(json.dumps(settings))["scale"] == [0.4, 0.6] and settings["backgrounds"].startswith("24 rows")


def test_a_comparison_has_means_and_spreads(record):
    runs = [copy.deepcopy(record) for _ in range(2)]
    runs[1]["results"]["accuracy"] = 0.6123
    runs[1]["method"]["seed"], runs[1]["collapsed_at"] = 4, 12
    (row,) = comparison_rows(runs)
    assert row["seeds"] == [3, 4] and row["collapsed"] == 1
    assert row["accuracy"] == pytest.approx(0.7123)
    assert row["spread"]["accuracy"] == pytest.approx(0.2 / 2**0.5)
    assert "spread" not in comparison_rows(runs[:1])[0]


def test_the_environment_names_command_hardware_and_versions(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/me/train.py", "--alpha", "3", "--name", "two words"])
    found = environment()
    assert found["command"] == "train.py --alpha 3 --name 'two words'"
    assert {"python", "hf_pgg", "torch", "transformers", "datasets"} <= set(found["versions"])
    assert found["device"] and found["threads"] >= 1


SECRET = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--hub_token", SECRET, "--alpha", "1"], ["--hub_token", "***", "--alpha", "1"]),
        ([f"--hub_token={SECRET}", "x"], ["--hub_token=***", "x"]),
        (["--hub_token", "short", "--push_to_hub"], ["--hub_token", "***", "--push_to_hub"]),
        (["--model", f"https://me:{SECRET}@host/x"], ["--model", "https://me:***@host/x"]),
        (["--wandb_api_key", "k", "--seed", "0"], ["--wandb_api_key", "***", "--seed", "0"]),
        (["--tokenizer_name", "hf_pgg_photographs_of_mine"], ["--tokenizer_name", "hf_pgg_photographs_of_mine"]),
        (["a", "the-token-of-this-machine"], ["a", "***"]),
    ],
)  # fmt: skip
def test_no_secret_gets_into_a_command(words, shown, monkeypatch):
    monkeypatch.setattr("hf_pgg.reports.record.get_token", lambda: "the-token-of-this-machine")
    assert _without_secrets(words) == shown


# ---------------------------------------------------------------------------------------------- at every save


@pytest.fixture
def trainer(guided_photos, processor, tmp_path):
    args = PGGConfig(output_dir=str(tmp_path / "mine"), alpha=2.0, max_steps=2, per_device_train_batch_size=4,
                     use_cpu=True, report_to=[], disable_tqdm=True, save_steps=1)  # fmt: skip
    return PGGTrainer(
        tiny_model("vit"),
        args,
        train_dataset=guided_photos,
        eval_dataset=guided_photos,
        processing_class=processor,
        compute_metrics=lambda prediction: {"accuracy": 0.625},
    )


def test_every_save_writes_record_and_card(trainer, tmp_path):
    trainer.train()
    for step in (1, 2):
        folder = tmp_path / "mine" / f"checkpoint-{step}"
        record = json.loads((folder / "results.json").read_text())
        assert record["method"]["steps"] == step and record["results"] == {}
        assert f"Steps: {step} of 4 samples" in (folder / "README.md").read_text()
    trainer.evaluate()
    trainer.save_model()
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "On the evaluation rows (24 images)" in card and "| Accuracy | 0.625 |" in card
    assert not MISSING.search(card)
    assert card.strip() == model_card(json.loads((tmp_path / "mine" / "results.json").read_text())).content.strip()


@pytest.mark.parametrize("own", ["a card by hand", "the card of a finished run"])
def test_a_card_that_is_no_draft_stays(own, trainer, record, tmp_path):
    folder = tmp_path / "mine"
    trainer.save_model()
    (folder / "README.md").write_text(own if own == "a card by hand" else model_card(record).content)
    before = (folder / "README.md").read_text()
    trainer.save_model()
    trainer.create_model_card()  # what a push calls
    assert (folder / "README.md").read_text() == before


# ---------------------------------------------------------------------------------------------- on the Hub


def validate(contents):
    for content in contents:
        ModelCard(content).validate()


def source_of(rows, repo, token):
    """Where rows that were pushed say they come from, before and after a `map`."""
    load_from_disk(rows).push_to_hub(repo, token=token)
    loaded = load_dataset(repo, split="train", token=token)
    return hub_source(loaded), hub_source(loaded.map(lambda row: {"more": 1})), hub_source(load_from_disk(rows))


def test_the_clients_validation_accepts_the_cards(hub, record, localized, of_clips, seeded, tmp_path):
    cards = [model_card(entry) for entry in (record, localized, of_clips, seeded)]
    with client(hub, tmp_path / "home") as run:
        run(validate, [card.content for card in cards])
    for card in cards:
        for name in (card.data.base_model, *card.data.datasets):
            validate_repo_id(name)
        index = card.data.to_dict()["model-index"][0]
        assert index["name"] == "guided" and index["results"][0]["dataset"]["type"] == "some/data"


def test_rows_of_the_hub_know_their_revision(hub, alice, guided_photos, tmp_path):
    guided_photos.save_to_disk(tmp_path / "rows")
    with client(hub, tmp_path / "home") as run:
        loaded, mapped, local = run(source_of, str(tmp_path / "rows"), "alice/rows", alice)
    assert loaded == mapped == ("alice/rows", hub.repos["datasets/alice/rows"].at("main").id)
    assert local == (None, None)


def test_a_recipe_pushes_card_record_and_images_and_no_token(hub, alice, photos, tmp_path):
    """Nothing that is written, printed or uploaded holds the token, though it stands on the command line."""
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        photos.to_parquet(data / f"{split}.parquet")
    out = tmp_path / "out"
    command = ["recipes/train_cls.py", "--dataset_name", data, "--mask_column", "mask", "--group_column", "scene",
               "--synthesis", "cutmix", "--architecture", "vit", "--image_size", SIZE, "--max_steps", 1,
               "--per_device_train_batch_size", 4, "--alpha", 1, "--use_cpu", True, "--push_to_hub", True,
               "--hub_model_id", "alice/mine", "--hub_token", alice, "--output_dir", out]  # fmt: skip
    environment = hub_environment(hub, tmp_path / "home") | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]

    files = hub.repos["alice/mine"].at("main").files
    record = json.loads(files["results.json"])
    assert files["README.md"].decode() == model_card(record).content
    assert 'pipeline("image-classification", model="alice/mine")' in files["README.md"].decode()
    assert {image["file"] for image in record["figures"]} == {"samples.png", "gradients.png", "curves.png"}
    assert all(files[image["file"]].startswith(b"\x89PNG") for image in record["figures"])
    assert record["synthesis"]["method"] == "CutMix" and "--hub_token '***'" in record["environment"]["command"]
    assert {group["name"] for group in record["groups"]["rows"]} == {f"{a}, {b}" for a in "abc" for b in "xy"}

    written = {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    uploaded = {f"Hub: {name}": content for name, content in files.items()}
    printed = {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    for name, content in {**written, **uploaded, **printed}.items():
        assert alice.encode() not in content, name
    assert not [name for name in uploaded if name.endswith((".bin", ".pt", ".pkl"))]
    assert os.fspath(data) in record["environment"]["command"]


# ---------------------------------------------------------------------------------------------- what it was before


@pytest.mark.parametrize(
    ("loaded_from", "base_model", "words"),
    [
        ("some/model", None, "Base model: `some/model`"),
        ("some/model", "other/model", "Base model: `other/model`"),
        ("", None, "Base model: not told"),
        ("", False, "Base model: none, trained from scratch"),
    ],
)
def test_the_base_model_is_what_the_model_was_loaded_from(
    loaded_from, base_model, words, guided_photos, processor, tmp_path
):
    model = tiny_model("vit")
    model.config._name_or_path = loaded_from
    args = PGGConfig(output_dir=str(tmp_path), use_cpu=True, report_to=[], license="apache-2.0")
    trainer = PGGTrainer(model, args, train_dataset=guided_photos, processing_class=processor)
    card = model_card(run_record(trainer, {}, base_model=base_model))
    assert words in card.text and "License: apache-2.0" in card.text
    assert card.data.license == "apache-2.0" and card.data.base_model == (base_model or loaded_from or None)


def test_a_card_without_a_license_says_so(record):
    card = model_card(record)
    assert "License: not told" in card.text and card.data.license is None
