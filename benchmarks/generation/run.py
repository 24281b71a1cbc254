"""Real-Fake's table in miniature: a digit classifier trained on real digits, on generated ones, and on both.

    python -m benchmarks.generation.run --plan search --results benchmarks/results/generation_search.jsonl
    python -m benchmarks.generation.run --plan headline

A run trains a pixel diffusion model on the 1,077 real training digits (8 x 8), with a weight of the
distribution-matching term; draws five versions of each digit, from the digit itself at strength 0.75 as published; and
trains one classifier on each of `SETS`, all for the same number of steps.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from transformers import set_seed

from benchmarks import runner as plan_runner
from benchmarks.generation import plan as generation_plans
from benchmarks.generation.plan import Run
from hf_pgg import PGGTrainer
from hf_pgg.cli.arguments import RecipeConfig
from hf_pgg.data.images import to_rgb
from hf_pgg.demo_data import handwritten_digits
from hf_pgg.metrics import group_metrics
from hf_pgg.reports.record import environment
from hf_pgg.training.models import image_classifier
from recipes.train_pixel_generator import PixelConfig, digit_space, draw, train_generator

VERSIONS = 5
# training set -> (real digits?, versions of generated ones)
SETS = {"1x": (False, 1), "5x": (False, 5), "real + 1x": (True, 1), "real + 5x": (True, 5)}


def execute(run: Run, root: str) -> dict[str, Any]:
    """Trains the generator and every classifier of one run; the record holds their accuracies."""
    started = time.time()
    torch.set_flush_denormal(True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    splits = {name: handwritten_digits(name) for name in ("train", "validation", "test")}
    real = splits["train"]
    with tempfile.TemporaryDirectory() as folder:
        if run.matching is None:
            record = {"classifiers": {"real": classify(real, splits, run, folder)}}
        else:
            generated, generator = generate(real, run, folder)
            sets = {}
            for name, (with_real, versions) in SETS.items():
                rows = generated.select(np.flatnonzero(np.asarray(generated["version"]) < versions))
                rows = rows.select_columns(["image", "label"])
                sets[name] = classify(concatenate_datasets([real, rows]) if with_real else rows, splits, run, folder)
            record = {
                "classifiers": sets,
                "generator": generator,
                "class_mean_distance": class_mean_distance(generated, splits["test"]),
            }
    real_distance = class_mean_distance(real, splits["test"])
    return {
        "run": asdict(run),
        **record,
        "class_mean_distance_of_real": real_distance,
        "environment": environment(),
        "seconds": round(time.time() - started, 1),
    }


def generate(real: Dataset, run: Run, folder: str) -> tuple[Dataset, dict[str, Any]]:
    """Five versions of each real digit, and the generator's losses at the end of its training."""
    space = digit_space(real)
    config = PixelConfig(
        output_dir=f"{folder}/generator",
        max_steps=run.generator_steps,
        matching_weight=float(run.matching or 0),
        matching_reduction="unbiased",
        logging_steps=100,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=run.seed,
    )
    unet, record = train_generator(real, space, config)
    images = f"{folder}/images"
    draw(
        real,
        unet,
        space,
        images,
        versions=VERSIONS,
        strength=run.strength,
        guidance_scale=run.guidance_scale,
        num_inference_steps=30,
        seed=run.seed,
    )
    last = record["history"][-5:]
    losses = {name: float(np.mean([entry[name] for entry in last])) for name in ("denoising_loss", "matching_loss")}
    rows = load_dataset(images, split="train", cache_dir=f"{folder}/cache", keep_in_memory=True)
    return rows, {**losses, "seconds": record["metrics"]["train_runtime"]}


def classify(rows: Dataset, splits: dict[str, Dataset], run: Run, folder: str) -> dict[str, float]:
    """Accuracy on the real validation and test digits of a classifier trained on some rows."""
    config = RecipeConfig(
        output_dir=f"{folder}/classifier",
        alpha=0.0,
        image_size=32,
        max_steps=run.steps,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=run.seed,
    )
    set_seed(run.seed)
    model, processor = image_classifier(rows.features["label"], image_size=32)
    trainer = PGGTrainer(
        model,
        config,
        train_dataset=rows,
        processing_class=processor,
        compute_metrics=lambda found: group_metrics(found.predictions.argmax(1), found.label_ids, found.label_ids),
    )
    trainer.train()
    measured = {
        name: trainer.evaluate(splits[name], metric_key_prefix=name)[f"{name}_accuracy"]
        for name in ("validation", "test")
    }
    return {"rows": len(rows), **measured}


def class_mean_distance(rows: Dataset, others: Dataset) -> float:
    """Root mean squared difference of the classes' mean images, in shares of white: what matching is about."""
    means = []
    for part in (rows, others):
        pixels = np.stack([to_rgb(image)[..., 0] for image in part["image"]]) / 255
        labels = np.asarray(part["label"])
        means.append(np.stack([pixels[labels == label].mean(0) for label in np.unique(labels)]))
    return float(np.sqrt(np.mean((means[0] - means[1]) ** 2)))


if __name__ == "__main__":
    plan_runner.main("benchmarks.generation.run", execute, generation_plans, Run, "benchmarks/results/generation.jsonl")
