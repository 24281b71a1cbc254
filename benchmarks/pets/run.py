"""The pets benchmark: one run per line of a plan, each result appended to a JSON-lines file, finished runs skipped.

    python -m benchmarks.pets.run --data DATA --plan search --jobs 2
    python -m benchmarks.pets.run --data DATA --plan headline --jobs 2

`DATA` holds `oxford-pets-masks`, `scene-backgrounds` and the two checkpoints. A run is a [`Run`]; plans are in
`benchmarks/pets/plan.py`. Validation (a part of train) decides every choice; the test figures of a run are stored
beside, and read by `benchmarks/write_results.py` for the chosen rows only.
"""

from __future__ import annotations

import os
import platform
import tempfile
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from torchvision.transforms import v2
from transformers import AutoImageProcessor, AutoModelForImageClassification, set_seed

import hf_pgg
from benchmarks import runner as plan_runner
from benchmarks.pets import data as pets_on_scenes
from benchmarks.pets import plan as benchmark_plans
from benchmarks.pets.plan import Run
from hf_pgg import BackgroundExchange, MaskAblation, PGGConfig, PGGTrainer
from hf_pgg.metrics import metrics_for

CHECKPOINTS = {"cnn": ("efficientnet-lite0-imagenet1k", 96), "vit": ("dinov2-small-saliency", 98)}


def execute(run: Run, root: str) -> dict[str, Any]:
    """Trains and evaluates one run; the record holds the run, the figures, versions, device and time."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    name, size = CHECKPOINTS[run.backbone]
    data = pets_on_scenes.load(
        root, run.setting, size, run.seed, bias="unbiased" not in run.method, edits=run.method != "no-edits"
    )
    train = prepared(data.train, run)
    set_seed(run.seed)
    model = AutoModelForImageClassification.from_pretrained(
        f"{root}/{name}",
        num_labels=train.features["labels"].feature.num_classes,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
    )
    if run.backbone == "cnn":
        model = model.to(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU
    with tempfile.TemporaryDirectory() as folder:

        def trainer(**options: Any) -> PGGTrainer:
            return PGGTrainer(
                model,
                PGGConfig(**{"output_dir": folder, "image_size": size, **settings(run), **run.extra, **options}),
                augment=v2.RandomHorizontalFlip(),
                train_dataset=train,
                processing_class=AutoImageProcessor.from_pretrained(f"{root}/{name}"),
                compute_metrics=metrics_for("background"),
            )

        if run.head_epochs:
            model.requires_grad_(False)
            _head(model).requires_grad_(True)
            trainer(alpha=0.0, num_train_epochs=run.head_epochs, learning_rate=1e-2).train()
            model.requires_grad_(True)
        fitted = trainer()
        seconds = fitted.train().metrics["train_runtime"]
        figures = fitted.evaluate(data.validation, metric_key_prefix="validation")
        figures |= fitted.evaluate(data.test, metric_key_prefix="test")
    return record_of(run, fitted, figures, seconds)


def prepared(train: Dataset, run: Run) -> Dataset:
    """The training rows as a run wants them: backgrounds exchanged, masks ablated, edits alone guided."""
    if "exchange" in run.method:
        train = BackgroundExchange(source=train, seed=run.seed).map(train)
    if run.masks != "true":
        train = MaskAblation.named(run.masks, seed=run.seed).map(train)
    if run.guide == "edits":
        train = train.map(lambda row: {"provenance": row["provenance"] if row["is_edit"] else None})
    return train


def settings(run: Run) -> dict[str, Any]:
    """The training arguments of a run."""
    return {
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 64,
        "num_train_epochs": run.epochs,
        "learning_rate": run.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 10,
        "weight_decay": 0.01,
        "max_grad_norm": run.clip,
        "alpha": run.alpha,
        "guidance_form": run.form,
        "guidance_logit": run.logit,
        "alpha_warmup_ratio": run.alpha_warmup,
        "guidance_mode": "finite_difference",
        "guidance_step": None if run.extra.get("guidance_mode") == "exact" else 1e-3,
        "freeze_batch_norm": True,
        "group_columns": ["background"],
        "logging_steps": 5,
        "save_strategy": "no",
        "report_to": [],
        "seed": run.seed,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "validate_rows": 100,
    }


def record_of(run: Run, trainer: PGGTrainer, figures: dict[str, float], seconds: float) -> dict[str, Any]:
    """What the results file holds of a run."""
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    keys = ("step", "classification_loss", "guidance_loss", "train_accuracy")
    cpu = f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"
    packages = {"hf_pgg": hf_pgg, "torch": torch, "transformers": transformers}
    return {
        "run": asdict(run),
        **{key: value for key, value in figures.items() if not key.endswith(("_runtime", "_per_second"))},
        "train_accuracy": float(np.mean([entry["train_accuracy"] for entry in history[-4:]])),
        "collapsed_at": trainer.collapsed_at,
        "nonfinite_steps": trainer.nonfinite_steps,
        "train_seconds": seconds,
        "steps": trainer.state.global_step,
        "curve": [{key: round(entry[key], 4) for key in keys if key in entry} for entry in history],
        "versions": {name: package.__version__ for name, package in packages.items()},
        "device": "cuda" if torch.cuda.is_available() else cpu,
    }


def _head(model: Any) -> Any:
    """The classification head of a `transformers` or timm-wrapped classifier."""
    return model.timm_model.get_classifier() if hasattr(model, "timm_model") else model.classifier


if __name__ == "__main__":
    plan_runner.main("benchmarks.pets.run", execute, benchmark_plans, Run, "benchmarks/results/pets.jsonl")
