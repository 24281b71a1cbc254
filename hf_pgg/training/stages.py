"""Training in stages, as From-Fake-to-Real does: the best checkpoint of a stage is what the next one starts from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from hf_pgg.data.provenance import guided_rows
from hf_pgg.training.config import PGGConfig
from hf_pgg.training.debias import GroupDROTrainer
from hf_pgg.training.trainer import PGGTrainer

_FIGURES = "stage.json"  # written last: it says that the stage is finished


def stage_arguments(args: PGGConfig, folder: str | Path, steps: int, evaluations: int = 6) -> PGGConfig:
    """Returns the settings of a stage: of `evaluations` checkpoints the best by the worst group of validation rows.

    Example:
        >>> args = stage_arguments(PGGConfig(use_cpu=True), "out/stage_one", steps=60)
        >>> args.output_dir, args.eval_steps
        ('out/stage_one/checkpoints', 10)
    """
    interval = max(steps // evaluations, 1)
    return replace(
        args,
        output_dir=str(Path(folder) / "checkpoints"),
        max_steps=steps,
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="worst_group_accuracy",
        greater_is_better=True,
    )


def run_folder(output_dir: str | Path | None, kind: str, settings: Mapping[str, Any]) -> Path:
    """Returns the folder of a run, in which no run of other settings lies.

    Example:
        >>> run_folder("out", "stage_one", {"seed": 0}).as_posix()
        'out/stage_one/de7d7744ccd7722e'
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return Path(output_dir or ".") / kind / digest


def finished_model(folder: str | Path) -> Path | None:
    """Returns the folder of a finished stage's model, to load instead of training; None if it is not finished.

    Example:
        >>> finished_model("no/such/stage") is None
        True
    """
    return Path(folder) / "model" if (Path(folder) / _FIGURES).exists() else None


def train_stage(trainer: PGGTrainer, folder: str | Path) -> dict[str, Any]:
    """Trains a stage, unless it is finished, and saves its model to `model` in its folder; goes on where it stopped.

    The trainer is made with [`stage_arguments`]. Returned are the figures of the stage: its steps, the best one, the
    guided rows, and the last training figures.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "stage.json").write_text('{"steps": 60}')
        ...     train_stage(None, folder)  # finished before
        {'steps': 60}
    """
    folder = Path(folder)
    if (folder / _FIGURES).exists():
        return json.loads((folder / _FIGURES).read_text())
    rows: Any = trainer.train_dataset
    checkpoints = Path(str(trainer.args.output_dir))
    told = f"{len(rows)} rows, {guided_rows(rows)} with provenance, {trainer.args.max_steps} steps"
    print(f"--- {type(trainer).__name__}, {told}, seed {trainer.args.seed}: {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(checkpoints) if checkpoints.exists() else None)
    trainer.save_model(str(folder / "model"))
    if trainer.is_world_process_zero():
        (folder / _FIGURES).write_text(json.dumps({"guided_rows": guided_rows(rows), **_figures(trainer)}))
        shutil.rmtree(checkpoints)
    trainer.accelerator.wait_for_everyone()
    return json.loads((folder / _FIGURES).read_text())


def _figures(trainer: PGGTrainer) -> dict[str, Any]:
    last = next((entry for entry in reversed(trainer.state.log_history) if "loss" in entry), {})
    weights = {}
    if isinstance(trainer, GroupDROTrainer):
        rows: Any = trainer.train_dataset
        names = rows.features[trainer.group_column].names
        weights["group_weights"] = dict(zip(names, trainer.dro.q.tolist(), strict=True))
    return {
        **weights,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "validation_worst_group_accuracy": trainer.state.best_metric,
        "target_gradient_share": last.get("target_gradient_share"),
        "train_accuracy": last.get("train_accuracy"),
        "collapsed_at": trainer.collapsed_at,
        "nonfinite_steps": trainer.nonfinite_steps,
    }


def evaluation_figures(trainer: Any, rows: Any, name: str) -> dict[str, float]:
    """Evaluates on rows, and returns the figures without the rows' name and without what they took.

    Example:
        >>> from types import SimpleNamespace
        >>> found = {"test_accuracy": 0.5, "test_runtime": 2.0, "epoch": 3.0}
        >>> evaluation_figures(SimpleNamespace(evaluate=lambda rows, metric_key_prefix: found), rows, "test")
        {'accuracy': 0.5}
    """
    found = trainer.evaluate(rows, metric_key_prefix=name).items()
    took = ("_runtime", "_per_second")
    return {
        key.removeprefix(f"{name}_"): value
        for key, value in found
        if key.startswith(f"{name}_") and not key.endswith(took)
    }
