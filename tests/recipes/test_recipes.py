"""The recipes as a user runs them: subprocesses, offline."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, load_dataset
from huggingface_hub import ModelCard
from transformers import AutoModelForImageClassification, AutoModelForVideoClassification, ViTImageProcessor

from hf_pgg import add_provenance
from hf_pgg.cli.arguments import PromptedDataArguments
from hf_pgg.cli.options import run_recipe
from hf_pgg.data.boxes import mask_to_box
from hf_pgg.data.loading import open_dataset
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.provenance import guided_rows
from hf_pgg.demo_data import digits_in_motion
from hf_pgg.generation.prompts import Prompts
from hf_pgg.localization.attribution import center_gaussian
from hf_pgg.localization.images import LocalizationSettings, evaluate_localization
from recipes import train_cls, train_wsol
from tests.conftest import SIZE, tiny_model
from tests.hub.server import environment as hub_environment

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, check=True, **environment):
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=env, cwd=ROOT)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def launch(*arguments, **options):
    return run("-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu", *arguments, **options)


def test_the_default_recipe_compares_three_methods(tmp_path):
    done = launch(
        "recipes/train_cls.py", "--compare", "--max_steps", 3, "--output_dir", tmp_path, "--disable_tqdm", True
    )
    assert "| plain |" in done.stdout and "| guided |" in done.stdout
    records = json.loads((tmp_path / "results.json").read_text())
    assert [record["method"]["name"] for record in records] == ["plain", "synthesis", "guided"]
    assert {record["method"]["steps"] for record in records} == {3}
    for image in ("samples.png", "gradients.png", "curves.png"):
        assert (tmp_path / image).stat().st_size > 10_000
        assert (tmp_path / "guided" / image).exists()
    assert "worst-group" in (tmp_path / "guided" / "README.md").read_text().lower()
    AutoModelForImageClassification.from_pretrained(tmp_path / "guided")


@pytest.fixture(scope="module")
def parquet(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    split = photos.train_test_split(test_size=8, seed=0)
    for name in ("train", "test"):
        split[name].to_parquet(folder / f"{name}.parquet")
    photos.select_columns(["image"]).to_parquet(folder / "scenes.parquet")
    return folder


@pytest.mark.parametrize("synthesis", ["composite", "exchange", "cutmix", "resizemix"])
def test_own_images_masks_and_checkpoint_from_a_config_file(synthesis, parquet, processor, tmp_path):
    tiny_model("vit").save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "test"):
        (data / f"{name}.parquet").write_bytes((parquet / f"{name}.parquet").read_bytes())
    settings = {
        "dataset_name": str(data),
        "mask_column": "mask",
        "group_column": "scene",
        "synthesis": synthesis,
        "backgrounds": str(parquet / "scenes.parquet"),
        "model_name_or_path": str(tmp_path / "checkpoint"),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "alpha": 1.0,
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    run("recipes/train_cls.py", tmp_path / "settings.json")
    record = json.loads((tmp_path / "out" / "results.json").read_text())[0]
    assert record["data"]["train_rows"] == 16 + 8 and record["method"]["image_size"] == SIZE
    assert 0 <= record["results"]["worst_group_accuracy"] <= 1


@pytest.fixture
def told(monkeypatch, capsys):
    """What `train_cls.py` says to wrong options before it ends with exit code 2, in this process."""

    def run_wrong(*arguments):
        monkeypatch.setattr(sys, "argv", ["train_cls.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_recipe(train_cls.main)
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run_wrong


def test_wrong_options_are_told_in_a_sentence(told, parquet, tmp_path):
    output = ("--output_dir", tmp_path / "o")
    assert "needs --backgrounds" in told("--dataset_name", parquet / "train.parquet", *output)
    assert "choose composite, none, exchange, cutmix, resizemix" in told("--synthesis", "mixup", *output)
    assert "alpha is -1.0: it must be a finite number >= 0" in told("--alpha", -1, *output)
    assert "choose real, generated, both" in told("--train_on", "synthetic", *output)
    assert not (tmp_path / "o").exists()


def test_a_wrong_option_is_one_line_with_exit_code_2(told, tmp_path):
    for arguments in (["--alhpa", 3], ["--config", tmp_path / "none.yaml"]):
        said = told(*arguments, "--output_dir", tmp_path / "o")
        assert said.strip().splitlines()[-1].startswith("train_cls.py: ")
    done = run("recipes/train_cls.py", "--dataset_name", tmp_path / "none", "--output_dir", tmp_path / "o", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("train_cls.py: ")


def test_the_plain_loop_runs():
    code = "import runpy; m = runpy.run_path('recipes/accelerate_loop.py'); m['main'](steps=2)"
    assert "target share" in run("-c", code).stdout


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"])
def test_the_accelerate_configurations_are_understood(name):
    """Parsed by Accelerate itself, which refuses unknown keys; DeepSpeed and CUDA are not needed for that."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / "recipes" / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == 2 and config.mixed_precision == "bf16"


def test_generated_rows_replace_the_real_ones_or_join_them(photos, tmp_path):
    """As `synthesize.py` writes them: a folder of parquet, with more columns than training reads."""
    generated = photos.select(range(6)).remove_columns("mask").add_column("prompt", ["a photo"] * 6)
    generated.to_parquet(tmp_path / "generated" / "train.parquet")
    arguments = train_cls.SynthesisArguments(generated=str(tmp_path / "generated"))
    known = add_provenance(photos, mask_column="mask")
    both = train_cls.with_generated(known, arguments)
    assert len(both) == len(photos) + 6 and both.features["label"] == photos.features["label"]
    assert both[0]["provenance"] is not None and both[len(photos)]["provenance"] is None
    alone = train_cls.with_generated(known, replace(arguments, train_on="generated"))
    assert set(alone.column_names) == {"image", "label"} and alone["label"] == photos["label"][:6]
    assert train_cls.with_generated(known, replace(arguments, train_on="real")) is known
    known.select(range(6)).rename_column("label", "breed").to_parquet(tmp_path / "edits" / "train.parquet")
    edits = replace(arguments, generated=str(tmp_path / "edits"))
    assert train_cls.with_generated(known, edits, "breed")[len(photos)]["provenance"] is not None, "edits keep theirs"
    renamed = photos.cast_column("label", ClassLabel(names=[f"{name}?" for name in photos.features["label"].names]))
    with pytest.raises(ValueError, match="the classes of"):
        train_cls.with_generated(renamed, arguments)


def pushed(hub, name, folder, token):
    """The files of a repository, after checks that hold for whatever a recipe pushes."""
    files = hub.repos[f"alice/{name}"].at("main").files
    assert files["README.md"] == (folder / "README.md").read_bytes(), "the finished card, not that of the last save"
    assert files["results.json"] == (folder / "results.json").read_bytes()
    assert json.loads(files["results.json"])["model"]["repo"] == f"alice/{name}"
    assert not [file for file in files if file.endswith((".bin", ".pt", ".pkl"))]
    assert not [file for file, content in files.items() if token.encode() in content]
    return files


def test_recipes_read_annotations_beside_a_folder(annotated_folder, photos):
    """Of COCO's boxes, `train_cls` makes provenance, `train_wsol` what is measured, the generators take the classes."""
    root = str(annotated_folder)
    places = {"dataset_name": root + "/{split}", "annotations": root + "/instances_{split}.json"}
    config = train_cls.RecipeConfig("out", use_cpu=True)
    data, _ = train_cls.load_data(train_cls.DataArguments(**places), train_cls.SynthesisArguments(), config)
    assert [len(data[part]) for part in ("train", "test")] == [8, 8] and guided_rows(data["train"]) == 8
    task = train_wsol.Task(**places)
    data = train_wsol.load_data(task, train_wsol.LocalizationConfig("out", use_cpu=True))
    assert data["train"].column_names == ["image", "label"] and guided_rows(data["train"]) == 0
    boxed = LocalizationSettings(box_column=task.box_column, box_format=task.box_format, delta=0.1)
    spec = InputSpec.from_processor(ViTImageProcessor(size={"height": SIZE, "width": SIZE}))
    found = evaluate_localization(tiny_model("vit"), spec, data["test"], center_gaussian, boxed)
    assert found["num_maps"] == 8
    prompted = PromptedDataArguments(**places, split="test")
    rows = open_dataset(prompted.dataset_name, prompted.split, annotations=prompted.annotated)
    Prompts(("a photo of {class}",)).check(rows)


def test_the_localization_recipe_compares_and_pushes_methods_on_boxes_of_ones_own(hub, alice, photos, tmp_path):
    boxed = photos.map(lambda row: {"bbox": [float(v) for v in mask_to_box(np.array(row["mask"]) > 127)]})
    boxed = boxed.map(lambda row, i: {"bbox": [] if i % 8 == 0 else row["bbox"]}, with_indices=True)
    boxed = boxed.rename_columns({"image": "photo", "label": "breed"})
    for name, rows in boxed.train_test_split(test_size=8, seed=0).items():
        rows.to_parquet(tmp_path / "data" / f"{name}.parquet")
    done = run(
        "recipes/train_wsol.py", "--compare", "--dataset_name", tmp_path / "data", "--mask_column", "mask",
        "--train_mask_column", "mask", "--image_column", "photo", "--label_column", "breed", "--image_size", 32,
        "--max_steps", 2, "--per_device_train_batch_size", 8, "--output_dir", tmp_path / "out",
        "--attributions", "grad_cam", "input_gradient", "--disable_tqdm", True, "--use_cpu", True,
        "--push_to_hub", True, "--hub_model_id", "alice/pets", "--hub_token", alice,
        **hub_environment(hub, tmp_path / "home"),
    )  # fmt: skip
    assert "| cutmix + guidance | " in done.stdout
    records = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [record["method"]["name"] for record in records] == ["plain", "cutmix", "cutmix + guidance"]
    assert "synthesis" not in records[0] and records[2]["synthesis"]["method"] == "CutMix"
    for record in records:
        assert set(record["localization"]["test"]) == {"grad_cam", "input_gradient"}
        assert {"max_box_acc_v2", "pixel_average_precision", "target_gradient_share"} <= set(record["results"])
    assert records[0]["method"]["alpha"] == 0 and records[2]["method"]["alpha"] == 1
    folder = tmp_path / "out" / "cutmix-guidance"
    assert (folder / "localization.png").stat().st_size > 10_000
    assert "MaxBoxAccV2" in ModelCard.load(folder / "README.md").text
    AutoModelForImageClassification.from_pretrained(folder)
    for method in ("plain", "cutmix", "cutmix-guidance"):
        files = pushed(hub, f"pets-{method}", tmp_path / "out" / method, alice)
        assert files["localization.png"] == (tmp_path / "out" / method / "localization.png").read_bytes()


def test_the_clip_recipe_compares_and_pushes_methods_on_clips_of_ones_own(hub, alice, tmp_path):
    clips = digits_in_motion(size=32, num_frames=4)
    for name, rows in (("train", clips["validation"].select(range(20))), ("test", clips["test"].select(range(8)))):
        rows = rows.rename_columns({"video": "film", "label": "motion"})
        rows.to_parquet(tmp_path / "data" / f"{name}.parquet")
    assert len(load_dataset(str(tmp_path / "data"), split="train")) == 20
    done = run(
        "recipes/train_stal.py", "--compare", "--dataset_name", tmp_path / "data", "--image_size", 32,
        "--patch_size", 16, "--video_column", "film", "--label_column", "motion", "--masks", "random",
        "--smoothing", 0.06, 0.2, "--over_time", 0, 1, "--joined", True,
        "--num_frames", 4, "--max_steps", 2, "--per_device_train_batch_size", 8, "--output_dir", tmp_path / "out",
        "--disable_tqdm", True, "--use_cpu", True, "--push_to_hub", True, "--hub_model_id", "alice/clips",
        "--hub_token", alice,
        **hub_environment(hub, tmp_path / "home"),
    )  # fmt: skip
    assert "| actor + guidance | " in done.stdout
    records = json.loads((tmp_path / "out" / "results.json").read_text())
    assert records[1]["synthesis"]["method"] == "ActorComposite" and records[2]["task"] == "video-classification"
    for record in records:
        assert {"frame_mAP@0.5", "frame_mAP@0.5_centre", "temporal_iou"} <= set(record["results"])
        found = record["localization"]
        assert {"grad_cam at 0.1", "input_gradient, blur 0.2, over time 1 at 0.1"} <= set(found["selection"])
        assert found["over_time"] in (0.0, 1.0)
        assert found["smoothing"] in ((0.06, 0.2) if found["map"] == "input_gradient" else (0.0,))
    folder = tmp_path / "out" / "actor-guidance"
    assert (folder / "clips.gif").read_bytes().startswith(b"GIF89a")
    assert "clips.gif" in ModelCard.load(folder / "README.md").text
    assert AutoModelForVideoClassification.from_pretrained(folder).config.patch_size == 16
    assert pushed(hub, "clips-actor-guidance", folder, alice)["clips.gif"].startswith(b"GIF89a")
