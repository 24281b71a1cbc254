"""The released checkpoints load as they are, say what they are, and do what their cards say."""

import json
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    pipeline,
)

from benchmarks import release
from hf_pgg.demo_data import digits_on_photographs
from hf_pgg.reports.model_card import model_card

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = sorted(path for path in (ROOT / "checkpoints").iterdir() if path.is_dir())
LIMIT = 20_000_000


def test_what_the_script_packages_is_what_is_there():
    assert [folder.name for folder in FOLDERS] == sorted(name for r in release.RELEASES for name in r.kept.values())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_released_folder_is_small_safe_and_described(folder):
    files = [path for path in folder.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LIMIT
    assert not [path for path in files if path.suffix in release.PICKLED]
    record = json.loads((folder / "results.json").read_text())
    card = ModelCard.load(folder / "README.md")
    assert card.content == model_card(record).content
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == record["task"]
    stated = {result.metric_type: result.metric_value for result in card.data.eval_results}
    results = {**record["results"]}  # of an older record: the mean over groups was called balanced accuracy
    results.setdefault("mean_group_accuracy", results.get("balanced_accuracy"))
    assert stated == {name: round(results[name], 4) for name in stated} != {}
    for image in record["figures"]:
        assert (folder / image["file"]).exists()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_released_folder_loads_without_this_library(folder):
    video = json.loads((folder / "config.json").read_text())["architectures"][0].endswith("ForVideoClassification")
    kind, processor = (
        (AutoModelForVideoClassification, AutoVideoProcessor)
        if video
        else (AutoModelForImageClassification, AutoImageProcessor)
    )
    model, report = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert processor.from_pretrained(folder) is not None and len(model.config.id2label) > 1


def test_the_guided_classifier_reads_digits_where_the_plain_one_reads_photographs():
    """On test digits that do not stand on the photograph of their class, as the two cards say."""
    rows = digits_on_photographs()["test"]
    rows = rows.select(np.flatnonzero(np.asarray(rows["aligned"]) == 0)[:120])

    def accuracy(name):
        answer = pipeline("image-classification", model=str(ROOT / "checkpoints" / name), device="cpu")
        found = answer([row["image"] for row in rows], top_k=1, batch_size=32)
        return np.mean([best[0]["label"] == str(row["labels"][0]) for best, row in zip(found, rows, strict=True)])

    assert accuracy("digits-convnext-guided") > accuracy("digits-convnext-plain") + 0.2


def test_a_pickle_and_a_folder_without_its_own_card_are_not_packaged(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    with pytest.raises(ValueError, match="not the run's own card"):
        release.package(source, tmp_path / "target", AutoModelForImageClassification)
    (source / "optimizer.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"optimizer.pt is pickled"):
        release.package(source, tmp_path / "target", AutoModelForImageClassification)
