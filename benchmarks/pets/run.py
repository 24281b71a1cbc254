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
import time
from dataclasses import asdict

import numpy as np

from benchmarks import runner as plan_runner
from benchmarks.pets import plan as benchmark_plans
from benchmarks.pets.plan import Run

CHECKPOINTS = {"cnn": ("efficientnet-lite0-imagenet1k", 96), "vit": ("dinov2-small-saliency", 98)}


def execute(run: Run, root: str) -> dict[str, object]:
    """Trains and evaluates one run; the record holds the run, the figures, versions, device and time."""
    import torch
    import transformers
    from torchvision.transforms import v2
    from transformers import AutoImageProcessor, AutoModelForImageClassification, set_seed

    import hf_pgg
    from benchmarks.pets import data as pets_on_scenes
    from hf_pgg import BackgroundExchange, MaskAblation, PGGConfig, PGGTrainer
    from hf_pgg.metrics import group_metrics

    torch.set_flush_denormal(True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    name, size = CHECKPOINTS[run.backbone]
    data = pets_on_scenes.load(
        root, run.setting, size, run.seed, bias="unbiased" not in run.method, edits=run.method != "no-edits"
    )
    train = data.train
    if "exchange" in run.method:
        train = BackgroundExchange(source=train, seed=run.seed).map(train)
    if run.masks != "true":
        train = MaskAblation.named(run.masks, seed=run.seed).map(train)
    if run.guide == "edits":
        train = train.map(lambda row: {"provenance": row["provenance"] if row["is_edit"] else None})

    set_seed(run.seed)
    model = AutoModelForImageClassification.from_pretrained(
        f"{root}/{name}",
        num_labels=train.features["labels"].feature.num_classes,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
    )
    if run.backbone == "cnn":
        model = model.to(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU
    processor = AutoImageProcessor.from_pretrained(f"{root}/{name}")

    def metrics(prediction: object) -> dict[str, float]:
        groups = 100 * prediction.label_ids + prediction.groups["background"]
        return group_metrics(prediction.predictions.argmax(1), prediction.label_ids, groups)

    with tempfile.TemporaryDirectory() as folder:

        def trainer(**options: object) -> PGGTrainer:
            args = PGGConfig(
                **{
                    "output_dir": folder,
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
                    "image_size": size,
                    "group_columns": ["background"],
                    "logging_steps": 5,
                    "save_strategy": "no",
                    "report_to": [],
                    "seed": run.seed,
                    "disable_tqdm": True,
                    "dataloader_pin_memory": False,
                    "validate_rows": 100,
                    **run.extra,
                    **options,
                }
            )
            flip = v2.RandomHorizontalFlip()
            return PGGTrainer(
                model,
                args,
                augment=flip,
                train_dataset=train,
                processing_class=processor,
                compute_metrics=metrics,
            )

        if run.head_epochs:
            head = _head(model)
            for parameter in model.parameters():
                parameter.requires_grad_(False)
            for parameter in head.parameters():
                parameter.requires_grad_(True)
            trainer(alpha=0.0, num_train_epochs=run.head_epochs, learning_rate=1e-2).train()
            for parameter in model.parameters():
                parameter.requires_grad_(True)
        started = time.time()
        fitted = trainer()
        fitted.train()
        seconds = time.time() - started
        validation = fitted.evaluate(data.validation, metric_key_prefix="validation")
        test = fitted.evaluate(data.test, metric_key_prefix="test")
    history = [entry for entry in fitted.state.log_history if "loss" in entry]
    return {
        "run": asdict(run),
        **{k: v for k, v in {**validation, **test}.items() if not k.endswith(("_runtime", "_per_second"))},
        "train_accuracy": float(np.mean([entry["train_accuracy"] for entry in history[-4:]])),
        "collapsed_at": fitted.collapsed_at,
        "nonfinite_steps": fitted.nonfinite_steps,
        "train_seconds": seconds,
        "steps": fitted.state.global_step,
        "curve": [
            {
                k: round(entry[k], 4)
                for k in ("step", "classification_loss", "guidance_loss", "train_accuracy")
                if k in entry
            }
            for entry in history
        ],
        "versions": {
            "hf_pgg": hf_pgg.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "device": "cuda"
        if torch.cuda.is_available()
        else f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)",
    }


def _head(model: object) -> object:
    """The classification head of a `transformers` or timm-wrapped classifier."""
    return model.timm_model.get_classifier() if hasattr(model, "timm_model") else model.classifier


if __name__ == "__main__":
    plan_runner.main("benchmarks.pets.run", execute, benchmark_plans, Run, "benchmarks/results/pets.jsonl")
