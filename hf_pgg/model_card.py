"""The model card, written from one run record and nothing else; `model_card_template.md` stands beside.

A run record is a plain dictionary, stored as `results.json` beside the checkpoint:

    model         {name, base_model}              data      {name, fingerprint, train_rows, test_rows, classes}
    method        {name, alpha, form, mode, ...}  results   {metric: value} of the test split
    comparison    [{method, metric: value}]       pictures  [file names beside the card]
    environment   what `environment()` returns    collapsed_at, nonfinite_steps
"""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

TEMPLATE = Path(__file__).with_name("model_card_template.md")
_PACKAGES = ("hf_pgg", "torch", "torchvision", "transformers", "datasets", "accelerate", "timm", "numpy")
METRIC_NAMES = {
    "accuracy": "Accuracy",
    "worst_group_accuracy": "Worst-group accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "group_gap": "Gap between best and worst group",
    "max_box_acc": "MaxBoxAcc",
    "max_box_acc_v2": "MaxBoxAccV2",
    "top1_localization": "Top-1 localization",
    "pixel_average_precision": "PxAP",
    "target_gradient_share": "Target gradient share",
}


def environment() -> dict[str, Any]:
    """Command, git revision, versions, hardware: what one needs to run it again."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git_revision": _git_revision(),
        "versions": versions,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
    }


def _git_revision() -> str | None:
    """The revision of the script's repository, with `+changes` where files differ from it; None outside of one."""
    folder = Path(sys.argv[0]).resolve().parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def model_card(record: Mapping[str, Any]) -> ModelCard:
    """The card of a run record, with metadata that the Hub understands.

    Raises:
        KeyError: If the record lacks a part that the card states.
    """
    results = {name: value for name, value in record["results"].items() if name in METRIC_NAMES}
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        base_model=record["model"]["base_model"],
        tags=["hf_pgg", "image-classification", "input-gradient-guidance"],
        metrics=["accuracy"],
        model_name=record["model"]["name"],
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=record["data"]["name"],
                dataset_name=record["data"]["name"],
                dataset_split="test",
                metric_type=name,
                metric_name=METRIC_NAMES[name],
                metric_value=round(value, 4),
            )
            for name, value in results.items()
        ],
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        record=record,
        results=results,
        names=METRIC_NAMES,
        columns=[name for name in METRIC_NAMES if any(name in row for row in record["comparison"])],
    )
