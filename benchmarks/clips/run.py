"""The benchmark of clips on JHMDB-21: `train_stal.py` for every run of a plan in `plan.py`.

    python -m benchmarks.clips.run --data DATA --plan search
    python -m benchmarks.clips.run --data DATA --plan headline

`DATA` holds `jhmdb21-160p` (official split 1). Training sees clips and labels; the actors' masks serve synthesis. A
fifth of the training clips is set aside, with all clips of a source video on one side, and chooses the map and its
threshold; boxes are used there and on the 268 test clips, which measure.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from typing import Any

import torch
from datasets import DatasetDict

from benchmarks import runner as plan_runner
from benchmarks.clips import plan as stal_plans
from benchmarks.clips.plan import Run
from benchmarks.tables import benchmark_record
from hf_pgg.data.loading import open_dataset
from recipes import train_stal


def source_video(row: dict[str, Any]) -> dict[str, str]:
    """The video that a clip was cut from: `class/NAME_class_...` gives NAME."""
    action, _, name = row["video_id"].partition("/")
    return {"source": name.split(f"_{action}_")[0]}


def execute(run: Run, root: str) -> dict[str, Any]:
    """Trains and evaluates one run; the record holds the run, the figures, versions, device and time."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    task = train_stal.ClipArguments(
        dataset_name=f"{root}/jhmdb21-160p",
        source_column="source",
        synthesis=run.synthesis,
        masks=run.masks,
        smoothing=[0.06, 0.2],
        over_time=[0.0, 1.0],
        joined=run.seed == 0 and run in stal_plans.headline(),  # takes as long as all other measurements together
        joined_stride=10,  # a quarter of a window
    )
    with tempfile.TemporaryDirectory() as folder:
        config = train_stal.ClipConfig(
            output_dir=folder,
            image_size=run.image_size,
            num_frames=run.num_frames,
            learning_rate=run.learning_rate,
            alpha=run.alpha,
            guidance_form=run.form,
            guidance_labels="one",  # a mix has up to four
            allow_overlap=run.masks.startswith(("dilate", "random")),
            dataloader_pin_memory=False,
            disable_tqdm=True,
            seed=run.seed,
        )
        whole = DatasetDict(
            {split: open_dataset(task.dataset_name, split).map(source_video) for split in ("train", "test")}
        )
        data = train_stal.split_and_sample(whole["train"], whole["test"], task, config)
        rows = data["train"]
        if run.synthesis != "none":
            rows, _ = train_stal.synthesize(rows, task, config)
        # one budget for all rows of the table: that of the synthesized ones
        config.max_steps = round(run.epochs * 2 * len(data["train"]) / config.train_batch_size)
        trainer, seconds = train_stal.train(rows, config, task)
        results, localization = train_stal.evaluate(trainer, data, task)
    return {"run": asdict(run), **benchmark_record(trainer, results, localization, seconds)}


if __name__ == "__main__":
    plan_runner.main("benchmarks.clips.run", execute, stal_plans, Run, "benchmarks/results/stal.jsonl")
