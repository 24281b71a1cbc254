"""`recipes/quickstart.py` on a folder of images as its docstring describes it."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import ViTImageProcessor, pipeline

from tests.conftest import SIZE, tiny_model

ROOT = Path(__file__).resolve().parents[2]


def write_split(folder, rows_a_class, with_scenes):
    """Cats are green and dogs red squares, on grass or sand."""
    rows = []
    for name, colour in (("cat", (20, 200, 20)), ("dog", (200, 20, 20))):
        (folder / name).mkdir(parents=True)
        (folder / "masks").mkdir(exist_ok=True)
        for i in range(rows_a_class):
            image = np.full((SIZE, SIZE, 3), 60 + 120 * (i % 2), np.uint8)
            mask = np.zeros((SIZE, SIZE), np.uint8)
            image[8:24, 8:24], mask[8:24, 8:24] = colour, 255
            Image.fromarray(image).save(folder / name / f"{i}.png")
            Image.fromarray(mask).save(folder / "masks" / f"{name}{i}.png")
            row = {"file_name": f"{name}/{i}.png", "label": name, "mask_file_name": f"masks/{name}{i}.png"}
            rows.append({**row, "scene": ("grass", "sand")[i % 2]} if with_scenes else row)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def run(*arguments):
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "recipes/quickstart.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)


@pytest.mark.parametrize("with_scenes", [True, False])
def test_the_quickstart_trains_on_a_folder_of_ones_own_and_saves_what_pipeline_loads(tmp_path, with_scenes):
    write_split(tmp_path / "photos" / "train", 4, with_scenes)
    write_split(tmp_path / "photos" / "test", 2, with_scenes)
    tiny_model("vit").save_pretrained(tmp_path / "checkpoint")
    ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(tmp_path / "checkpoint")
    output = tmp_path / "out"
    done = run(
        tmp_path / "photos", "--model", tmp_path / "checkpoint", "--output_dir", output, "--epochs", 1
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "worst_group_accuracy" in done.stdout
    answers = pipeline("image-classification", str(output))(Image.open(tmp_path / "photos" / "test" / "cat" / "0.png"))
    assert {answer["label"] for answer in answers} == {"cat", "dog"}
    assert (output / "README.md").exists()


def test_a_folder_without_images_is_refused_in_one_line(tmp_path):
    done = run(tmp_path, "--output_dir", tmp_path / "out")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("quickstart.py: ")
