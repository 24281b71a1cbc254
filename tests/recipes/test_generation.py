"""The recipes of generation, one after another on tiny models of random weights: learn, draw, train on it; edit."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset

pytest.importorskip("diffusers")

from hf_pgg.data.groups import count_groups
from hf_pgg.data.validation import validate_row
from tests.conftest import tiny_model
from tests.generation import tiny_diffusion

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(scope="module")
def models(processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_diffusion.pipeline().save_pretrained(folder / "sd")
    name = "StableDiffusionInpaintPipeline"
    tiny_diffusion.pipeline(name, in_channels=9).save_pretrained(folder / "inpaint")
    tiny_diffusion.image_encoder().save_pretrained(folder / "clip")
    tiny_diffusion.image_processor().save_pretrained(folder / "clip")
    tiny_model("vit").save_pretrained(folder / "classifier")
    processor.save_pretrained(folder / "classifier")
    return folder


@pytest.fixture(scope="module")
def parquet(guided_photos, tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "photos.parquet"
    guided_photos.select(range(9)).to_parquet(file)
    return file


def run(recipe, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [recipe, *map(str, arguments)])
    monkeypatch.syspath_prepend(str(RECIPES))
    runpy.run_path(str(RECIPES / recipe), run_name="__main__")


def refused(recipe, monkeypatch, capsys, *arguments):
    """The line on stderr that a recipe ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        run(recipe, monkeypatch, *arguments)
    assert error.value.code == 2
    return capsys.readouterr().err


def test_a_generator_is_trained_and_drawn_from(models, parquet, tmp_path, monkeypatch, capsys):
    common = ["--dataset_name", parquet, "--model_name_or_path", models / "sd", "--clip_model", models / "clip"]
    common += ["--resolution", 32, "--prompts", "photo of {class}, {name}"]
    train = [*common, "--output_dir", tmp_path / "lora", "--use_cpu", True, "--per_device_train_batch_size", 4]
    run("train_generator.py", monkeypatch, *train, "--max_steps", 2, "--save_steps", 2)
    run("train_generator.py", monkeypatch, *train, "--max_steps", 3, "--save_steps", 2)
    assert "checkpoint-2" in capsys.readouterr().out
    record = json.loads((tmp_path / "lora" / "results.json").read_text())
    assert record["steps"] == 3 and record["method"]["matching_weight"] == 0.003
    assert record["model"]["revision"].startswith("sha256:")

    draw = [*common, "--lora", tmp_path / "lora", "--output_dir", tmp_path / "synthetic", "--num_inference_steps", 4]
    run("synthesize.py", monkeypatch, *draw, "--versions", 2, "--keep_columns", "scene", "--part_size", 5)
    assert "18 images, 0 black ones redrawn" in capsys.readouterr().out
    rows = load_dataset(str(tmp_path / "synthetic"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 18 and rows[0]["lora_scale"] == 0.5 and rows[0]["lora_revision"].startswith("sha256:")
    assert rows[4]["prompt"] == "photo of b, photo-4" and "scene" in rows.features
    assert len(list((tmp_path / "synthetic" / "contact_sheets").iterdir())) == 3
    run("synthesize.py", monkeypatch, *draw, "--versions", 2, "--keep_columns", "scene", "--part_size", 5)
    assert "0 images, 0 black ones redrawn" in capsys.readouterr().out


def test_images_of_every_group_are_drawn_from_text(models, parquet, tmp_path, monkeypatch, capsys):
    arguments = ["--dataset_name", parquet, "--model_name_or_path", models / "sd", "--output_dir", tmp_path / "drawn"]
    arguments += ["--sampler", "text", "--bias_column", "scene", "--resolution", 32, "--num_inference_steps", 1]
    told = refused("synthesize.py", monkeypatch, capsys, *arguments, "--prompts", "a {class}")
    assert "--bias_column scene: every prompt must name {scene}" in told
    run("synthesize.py", monkeypatch, *arguments, "--prompts", "a {class} in a {scene}")
    rows = load_dataset(str(tmp_path / "drawn"), split="train", cache_dir=str(tmp_path / "cache"))
    source = load_dataset("parquet", data_files=str(parquet), split="train", cache_dir=str(tmp_path / "cache"))
    labels, scenes = (source.features[name] for name in ("label", "scene"))
    assert (count_groups(rows, "label", "scene") == np.bincount(source["label"])[:, None]).all(), "balanced"
    for row in rows:
        assert row["prompt"] == f"a {labels.int2str(row['label'])} in a {scenes.int2str(row['scene'])}"
    assert rows[0]["dtype"] == "float32" and rows[0]["guidance_scale"] == 7.5


def test_images_are_edited_and_filtered(models, parquet, tmp_path, monkeypatch, capsys):
    (tmp_path / "prompts.txt").write_text("in the snow\nat night\n")
    arguments = ["--dataset_name", parquet, "--model_name_or_path", models / "inpaint", "--editor", "inpaint"]
    arguments += ["--prompt_file", tmp_path / "prompts.txt", "--resolution", 32, "--num_inference_steps", 2]
    arguments += ["--filter_model", models / "classifier", "--output_dir", tmp_path / "edits"]
    run("edit_images.py", monkeypatch, *arguments)
    printed = capsys.readouterr().out
    assert "| class | edits | too easy | failed |" in printed and "| a | 6 |" in printed
    rows = load_dataset(str(tmp_path / "edits"), split="train", cache_dir=str(tmp_path / "cache"))
    kept = load_dataset(str(tmp_path / "edits" / "filtered"), split="train", cache_dir=str(tmp_path / "cache"))
    counts = json.loads((tmp_path / "edits" / "filtered" / "filter.json").read_text())
    assert len(rows) == 18 and len(kept) == counts["kept"] == len(set(kept["source_row"])) <= 9
    for index, row in enumerate(rows):
        validate_row(row, index, num_classes=3)


def test_wrong_options_are_told_in_a_sentence(models, parquet, tmp_path, monkeypatch, capsys):
    arguments = ["--dataset_name", parquet, "--model_name_or_path", models / "sd", "--output_dir", tmp_path]

    def told(recipe, *options):
        return refused(recipe, monkeypatch, capsys, *arguments, *options)

    painted = told("edit_images.py", "--editor", "paint", "--prompts", "a {class}")
    assert "--editor: 'paint' is unknown, choose image, instruct, inpaint" in painted
    unfiltered = told("edit_images.py", "--clip_filter", "any", "--prompts", "a {class}")
    assert "--clip_filter needs --clip_positive and --clip_negative" in unfiltered
    assert "either as a list or as a text file" in told("edit_images.py")
    assert "has no {class}" in told("synthesize.py", "--prompts", "a photo")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_share_the_images_and_the_training(models, parquet, tmp_path):
    common = ["--dataset_name", parquet, "--model_name_or_path", models / "sd", "--clip_model", models / "clip"]
    common += ["--resolution", "32"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}

    def launch(recipe, *arguments):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", RECIPES / recipe, *common]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    train = ["--max_steps", "2", "--per_device_train_batch_size", "2", "--use_cpu", "True"]
    launch("train_generator.py", *train, "--output_dir", tmp_path / "lora")
    assert json.loads((tmp_path / "lora" / "results.json").read_text())["method"]["world_size"] == 2
    draw = ["--num_inference_steps", "2", "--part_size", "2", "--lora", tmp_path / "lora"]
    printed = launch("synthesize.py", *draw, "--output_dir", tmp_path / "out")
    assert "process 0: 5 images" in printed and "process 1: 4 images" in printed
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["source_row"] == list(range(9))
