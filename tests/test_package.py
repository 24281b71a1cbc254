"""The built wheel works where the checkout is not."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_imports_and_trains_in_an_environment_of_its_own(tmp_path):
    """The environment holds the wheel alone; its dependencies are lent by this one's site-packages, after it."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "hf_pgg/reports/model_card_template.md",
        "hf_pgg/py.typed",
        "hf_pgg/metrics/modules/group_accuracy/group_accuracy.py",
        "hf_pgg/metrics/modules/group_accuracy/README.md",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests/", "recipes/", "benchmarks/"))]
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel],
        check=True,
    )
    code = """
import hf_pgg, evaluate, sys, pathlib
assert pathlib.Path(hf_pgg.__file__).is_relative_to(sys.argv[1]), hf_pgg.__file__
from hf_pgg.demo_data import digits_on_photographs
from hf_pgg.metrics import module_path
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
rows = digits_on_photographs(copies=1)["train"].select(range(8))
model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, hidden_size=8, num_hidden_layers=1,
                                            num_attention_heads=1, intermediate_size=8, num_labels=10))
args = hf_pgg.PGGConfig(output_dir="out", max_steps=1, use_cpu=True, report_to=[], save_strategy="no")
hf_pgg.PGGTrainer(model, args, train_dataset=rows,
                  processing_class=ViTImageProcessor(size={"height": 32, "width": 32})).train()
print(evaluate.load(module_path("group_accuracy")).compute(predictions=[0], references=[0], groups=[0]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)],
        env={**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "worst_group_accuracy" in done.stdout
