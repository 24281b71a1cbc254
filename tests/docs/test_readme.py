"""The README is short, and its example runs: on a small dataset and a small model, in place of those it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image
from transformers import ConvNextConfig, ConvNextModel, ViTImageProcessor

from hf_pgg import Composite
from hf_pgg.demo_data import PHOTOGRAPHS, digits, photographs

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_it_is_read_in_one_sitting() -> None:
    assert README.count("\n") <= 200
    assert len(README.encode()) <= 12 * 1024


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def small_photos(split: str) -> Dataset:
    """Twenty digits on photographs, with the columns that the README's example names."""
    scenes = photographs(PHOTOGRAPHS[:2], crops=4)
    known = Composite(backgrounds=scenes, mask_column="mask", size=48, background_column="label").map(
        digits(split).select(range(20))
    )
    return Dataset.from_dict(
        {
            "image": known["image"],
            "mask": [masks[0] for masks in known["provenance"]],
            "label": known["label"],
            "scene": known["background"],
        },
        features=Features(
            image=Image(), mask=Image(), label=known.features["label"], scene=known.features["background"]
        ),
    )


def test_its_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        small_photos(split).to_parquet(tmp_path / "photos" / f"{split}.parquet")
    config = ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4)
    ConvNextModel(config).save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path / "model")
    code = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)[0]
    for named, small in (("my/photos", "photos"), ("facebook/dinov2-small", "model")):
        assert named in code
        code = code.replace(named, str(tmp_path / small))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert (tmp_path / "out/photos/model.safetensors").exists()
    assert (tmp_path / "out/photos/README.md").exists()
    assert "score" in capsys.readouterr().out
