"""The localization benchmark on the Oxford pets: `train_wsol.py` for every run of a plan, see `plan.py`.

    python -m benchmarks.localization.run --data DATA --plan search --jobs 2
    python -m benchmarks.localization.run --data DATA --plan headline --jobs 2

`DATA` holds `oxford-pets-37` and `efficientnet-lite0-imagenet1k`. Training sees images and breeds; the boxes and
trimaps of 357 training photos choose the map and the threshold, those of 335 test photos measure. PuzzleMix takes its
saliency from the plain run of its seed, whose checkpoint is kept under `out/benchmark_wsol`. Those of seed 0 stay there
too, for `python -m benchmarks.localization.figure --data DATA`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Image, concatenate_datasets

from benchmarks import runner as plan_runner
from benchmarks.localization import plan as wsol_plans
from benchmarks.localization.plan import SIZES, Run
from benchmarks.tables import benchmark_record
from hf_pgg import MaskAblation, add_provenance
from hf_pgg.cli.arguments import ModelArguments
from hf_pgg.data.images import encode_png, resize
from hf_pgg.data.loading import open_dataset
from recipes import train_wsol

KEPT = Path("out/benchmark_wsol")


def kept(run: Run) -> Path:
    """Where a checkpoint is kept: of the plain runs, for PuzzleMix, and of seed 0, for the figure."""
    kind = ("-automatic" if run.automatic else "") + ("-guided" if run.alpha > 0 else "")
    return KEPT / f"{run.backbone}-{run.synthesis}{kind}-seed{run.seed}"


# seed 0 of these stays: `benchmarks/localization/figure.py` shows them
FIGURED = (*wsol_plans.headline(), *wsol_plans.objects())


def with_automatic_masks(rows: Dataset, root: str, side: int) -> Dataset:
    """Rows with provenance from a saliency model's masks: what a user with a segmentation model has."""
    masks = open_dataset(f"{root}/oxford-pets-salient-masks", "train").select_columns("mask")

    def shrink(row: dict[str, Any]) -> dict[str, Any]:
        return {"mask": encode_png(resize(np.array(row["mask"], np.float32), (side, side)))}

    masks = masks.map(shrink, features=Features(mask=Image()))
    return add_provenance(concatenate_datasets([rows, masks], axis=1), mask_column="mask")


def execute(run: Run, root: str) -> dict[str, Any]:
    """Trains and evaluates one run; the record holds the run, the figures, versions, device and time."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    task = train_wsol.Task(
        dataset_name=f"{root}/oxford-pets-37",
        mask_column="mask",
        target_value=1,
        ignore_value=3,
        synthesis=run.synthesis,
        masks="true" if run.automatic else run.masks,
        keep_originals=run.keep_originals,
        synthesis_copies=1 if run.keep_originals else 2,
        attributions=["cam", "guided_grad_cam", "input_gradient"]
        if run.backbone != "vit"
        else ["grad_cam", "attention_rollout", "input_gradient"],
        saliency_model=str(kept(Run(seed=run.seed))) if run.synthesis == "puzzlemix" else None,
    )
    pretrained = f"{root}/efficientnet-lite0-imagenet1k" if run.backbone == "cnn" else None
    models = ModelArguments(pretrained, architecture=run.backbone)
    with tempfile.TemporaryDirectory() as folder:
        config = train_wsol.LocalizationConfig(
            output_dir=folder,
            per_device_train_batch_size=32,
            max_steps=run.steps,
            learning_rate=run.learning_rate,
            image_size=SIZES[run.backbone],
            freeze_batch_norm=True,
            alpha=run.alpha,
            guidance_form=run.form,
            guidance_mode=run.mode,
            guidance_labels=run.labels,
            allow_overlap=run.masks.startswith(("dilate", "random")),
            dataloader_pin_memory=False,
            disable_tqdm=True,
            seed=run.seed,
        )
        data = train_wsol.load_data(task, config)
        train = data["train"]
        if run.automatic:  # a mix of rows that have provenance keeps it: each object, in its own part
            train = with_automatic_masks(train, root, SIZES[run.backbone])
        rows, _ = train_wsol.mix(train, task, config, task.saliency_model)
        if run.automatic and run.masks != "true":
            rows = MaskAblation.named(run.masks, seed=run.seed).map(rows)
        trainer, seconds = train_wsol.train(rows, config, models, task)
        results, localization = train_wsol.evaluate(trainer, data, task)
        if run == Run(backbone=run.backbone, seed=run.seed) or (run.seed == 0 and run in FIGURED):
            trainer.save_model()
            shutil.rmtree(kept(run), ignore_errors=True)
            shutil.copytree(folder, kept(run))
    return {"run": asdict(run), **benchmark_record(trainer, results, localization, seconds)}


if __name__ == "__main__":
    plan_runner.main("benchmarks.localization.run", execute, wsol_plans, Run, "benchmarks/results/wsol.jsonl")
