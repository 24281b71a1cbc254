"""Strings and integers of a `metadata.csv` (or of a column of clips) are classes in every recipe and in the preview."""

import csv
import importlib
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from hf_pgg.cli import main as cli
from hf_pgg.cli.arguments import PromptedDataArguments
from hf_pgg.data.groups import count_groups
from hf_pgg.data.images import encode_mask, encode_png
from hf_pgg.data.loading import open_dataset
from hf_pgg.data.provenance import guided_rows
from hf_pgg.generation.pixels import PixelSpace
from hf_pgg.generation.prompts import Prompts
from recipes import train_cls, train_ffr, train_stal, train_wsol

SPLITS = {"train": 8, "validation": 4, "test": 4}
KINDS = {"strings": (["cat", "dog"], ["grass", "sand"]), "integers": ([7, 3], [1, 0])}
COLUMNS = {"image_column": "image", "label_column": "breed"}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    """Squares on noise, their class in `breed` and what is around them in `scene`; each pair in every split."""
    root, (breeds, scenes), rng = tmp_path_factory.mktemp("photos"), KINDS[kind], np.random.default_rng(0)
    for split, count in SPLITS.items():
        (root / split / "masks").mkdir(parents=True)
        with (root / split / "metadata.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "breed", "scene", "mask_file_name"])
            for i in range(count):
                image, mask = rng.integers(0, 256, (32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
                mask[8:24, 4:20] = 255
                PILImage.fromarray(image).save(root / split / f"{i}.png")
                PILImage.fromarray(mask).save(root / split / "masks" / f"{i}.png")
                writer.writerow([f"{i}.png", breeds[i % 2], scenes[i // 2 % 2], f"masks/{i}.png"])
    return str(root)


@pytest.fixture(scope="module")
def names(kind):
    return [sorted(map(str, values)) for values in KINDS[kind]]


def test_classification(folder, names, tmp_path):
    config = train_cls.RecipeConfig(str(tmp_path), use_cpu=True, **COLUMNS)
    places = {"dataset_name": folder, "mask_column": "mask", "group_column": "scene"}
    data, group = train_cls.load_data(train_cls.DataArguments(**places), train_cls.SynthesisArguments(), config)
    assert [data["train"].features[name].names for name in ("label", group)] == names
    assert data["test"].features["label"] == data["train"].features["label"] and guided_rows(data["train"]) == 8
    assert count_groups(data["test"], "label", group).tolist() == [[1, 1], [1, 1]]
    mixed, _ = train_cls.synthesize(
        data["train"], train_cls.DataArguments(**places), train_cls.SynthesisArguments("cutmix", 0.5), 0
    )
    assert len(mixed) == 12


def test_localization_from_image_labels(folder, names, tmp_path):
    config = train_wsol.LocalizationConfig(str(tmp_path), use_cpu=True, image_size=16, **COLUMNS)
    data = train_wsol.load_data(train_wsol.Task(dataset_name=folder, train_mask_column="mask"), config)
    assert data["train"].features["label"].names == names[0] and guided_rows(data["train"]) == 8
    assert len(train_wsol.mix(data["train"], train_wsol.Task(), config, None)[0]) == 16


def test_real_and_synthetic_rows_by_group(folder, names, tmp_path):
    config = train_ffr.FFRConfig(str(tmp_path), use_cpu=True, **COLUMNS)
    data = train_ffr.load_data(train_ffr.DataArguments(dataset_name=folder, bias_column="scene"), config, None, 0)
    assert [data["train"].features[name].names for name in ("breed", "scene")] == names
    assert all(count_groups(data[part], "breed", "scene").min() >= 1 for part in SPLITS)


def test_generators(folder, names):
    data = PromptedDataArguments(folder, label_column="breed")
    rows = data.open_rows("scene", split="test")
    Prompts(("a {class} on {scene}",), label_column="breed").check(rows)
    assert [rows.features[name].names for name in ("breed", "scene")] == names
    known = open_dataset(folder, "train", label_column="breed", class_columns=["breed", "scene"])
    space = PixelSpace.of(known, ["breed", "scene"], size=16, mask_column="mask")
    assert space.conditions == {"breed": 2, "scene": 2}


def test_the_preview(folder, capsys, tmp_path):
    options = ["--label_column", "breed", "--mask_column", "mask", "--count", "2", "--output", str(tmp_path / "s.png")]
    for synthesis in ("cutmix", "none"):
        cli.main(["preview", folder, "--synthesis", synthesis, *options])
        assert "2 of 8 rows" in capsys.readouterr().out


@pytest.fixture(scope="module")
def clips(kind, tmp_path_factory):
    """Twenty clips of four frames in which a square moves, their motion a string or an integer."""
    rows = {"video": [], "masks": [], "bboxes": [], "motion": []}
    for i in range(20):
        masks = np.zeros((4, 32, 32), bool)
        for t in range(4):
            masks[t, 8:20, 2 * t + i % 2 : 2 * t + i % 2 + 14] = True
        rows["video"].append([encode_png(mask * 200) for mask in masks])
        rows["masks"].append(encode_mask(masks))
        rows["bboxes"].append([[2 * t + i % 2, 8, 14, 12] for t in range(4)])
        rows["motion"].append(KINDS[kind][0][i % 2])
    label = Value("string" if kind == "strings" else "int64")
    features = Features(video=List(Image()), masks=Image(), bboxes=List(List(Value("float32"))), motion=label)
    root = tmp_path_factory.mktemp("clips")
    for split, chosen in (("train", range(12)), ("test", range(12, 20))):
        Dataset.from_dict(rows, features=features).select(chosen).to_parquet(root / f"{split}.parquet")
    return str(root)


def test_clips_and_skeletons(clips, names, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(train_cls.__file__).parent)  # a recipe imports the file beside it
    train_skeletons = importlib.import_module("recipes.train_skeletons")
    options = {"use_cpu": True, "num_frames": 4, "label_column": "motion"}
    config = train_stal.ClipConfig(str(tmp_path), image_size=16, **options)
    task = train_stal.ClipArguments(dataset_name=clips, box_format="xywh", validation_share=0.25)
    data = train_stal.load_data(task, config)
    assert [data[part].features["label"].names for part in data] == [names[0]] * 3
    assert len(train_stal.synthesize(data["train"], task, config)[0]) == 2 * len(data["train"])
    config = train_skeletons.SkeletonRecipeConfig(str(tmp_path), **options)
    skeletons = train_skeletons.load_data(train_skeletons.SkeletonArguments(data=clips), config)
    assert [skeletons[part].features["motion"].names for part in skeletons] == [names[0]] * 2
