"""The record of a run: everything that its model card states, as a dictionary that `results.json` holds.

    task          "image-classification" or "video-classification"
    model         {name, title, base_model, from_scratch, license, language, repo}: its folder, its card's title, ...
    data          {name, repo, revision, fingerprint, train_rows, test_rows, classes, arguments}
    synthesis     {method, version, ...}: every setting of the synthesis method, see `synthesis_settings`
    method        {name, alpha, any_guided, form, mode, seed, steps, ...}
    results       {metric: value} of the test split
    groups        {columns, rows: [{name, accuracy, count, low, high}]}
    localization  {map, threshold, selection, test}: how boxes are cut from maps, and what was tried
    comparison    [{method, seeds, metric: mean over the seeds, spread: {metric: standard deviation}}]
    figures       [{file, title}] beside the card
    tags          what the model is tagged with besides
    draft         True where it was written while training, see `hf_pgg.training.hub.draft_card`
    environment   what `environment()` returns        collapsed_at, nonfinite_steps

The command in it has no token: each is replaced by `***`.
"""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import get_token

from hf_pgg.reports.origins import hub_id, hub_source, synthesis_settings

__all__ = ["comparison_rows", "environment", "hub_id", "hub_source", "run_record", "synthesis_settings"]

_PACKAGES = ("hf_pgg", "torch", "torchvision", "transformers", "datasets", "accelerate", "timm", "numpy")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
_SECRET_OPTION = re.compile(r"-{1,2}\w*(token(?!iz)|password|secret|api_key)\w*", re.IGNORECASE)


# ---------------------------------------------------------------------------------------------- where it ran


def environment() -> dict[str, Any]:
    """Describes command, git revision, versions and hardware: what one needs to run it again.

    Example:
        >>> sorted(environment())
        ['command', 'device', 'devices', 'git_revision', 'platform', 'threads', 'versions']
    """
    cuda = torch.cuda.is_available()
    return {
        "command": shlex.join(_without_secrets([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "git_revision": _git_revision(),
        "versions": dict(_versions()),
        "device": torch.cuda.get_device_name() if cuda else f"CPU ({_processor()})",
        "devices": torch.cuda.device_count() if cuda else 1,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(terse=True),
    }


def _without_secrets(words: Sequence[str]) -> list[str]:
    """The words of a command, with tokens and the values of options that are named after secrets replaced by `***`."""
    own, hidden, hide = get_token(), [], False
    for word in words:
        option, equals, _ = word.partition("=")
        if hide and not word.startswith("--"):
            word = "***"
        hide = bool(_SECRET_OPTION.fullmatch(option)) and not equals
        if equals and _SECRET_OPTION.fullmatch(option):
            word = f"{option}=***"
        word = _TOKEN.sub("***", word)
        hidden.append(word.replace(own, "***") if own else word)
    return hidden


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return tuple(found.items())


@cache
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


@cache
def _processor() -> str:
    """The processor's own name where Linux tells it, else the architecture."""
    known = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", known.read_text()) if known.is_file() else []
    return f"{names[0]}, {platform.machine()}" if names else platform.machine()


# ---------------------------------------------------------------------------------------------- what came out


def run_record(
    trainer: Any,
    results: Mapping[str, float],
    *,
    method: str | None = None,
    base_model: str | bool | None = None,
    data_name: str | None = None,
    data_revision: str | None = None,
    test_rows: int | None = None,
    synthesis: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    train_seconds: float | None = None,
    **parts: Any,
) -> dict[str, Any]:
    """Gathers what `results.json` and the model card hold of one run, after training.

    Args:
        results: Metric to value, on the test rows, which are `test_rows`.
        method (`str`, *optional*): The name of the run's method in comparisons.
        base_model (`str`, *optional*): Hub id or folder of the checkpoint that was fine-tuned; by default where the
            model says that it was loaded from; False where training started from random weights.
        data_name (`str`, *optional*): Hub id, folder, or words; by default where the training rows were loaded from.
        synthesis (`str`, *optional*): The synthesis in words.
        arguments (*optional*): The arguments of the data, as the script read them.
        parts: Further parts of the record: `synthesis_settings` (kept as `synthesis`), `groups`, `localization`.

    Example:
        >>> from tempfile import mkdtemp
        >>> from hf_pgg import PGGConfig, PGGTrainer
        >>> from transformers import ViTImageProcessor
        >>> args = PGGConfig(output_dir=f"{mkdtemp()}/mine", alpha=2.0, use_cpu=True, report_to=[])
        >>> processor = ViTImageProcessor(size={"height": 16, "width": 16})
        >>> trainer = PGGTrainer(model, args, train_dataset=rows, processing_class=processor)
        >>> record = run_record(trainer, {"accuracy": 0.75}, method="guided")
        >>> record["data"]["classes"], record["method"]["alpha"], record["results"]
        (['cat', 'dog'], 2.0, {'accuracy': 0.75})
    """
    settings = parts.pop("synthesis_settings", None)
    record = {
        "task": "video-classification" if trainer.args.video_column else "image-classification",
        "model": _model_part(trainer, base_model),
        "data": _data_part(trainer, data_name, data_revision, test_rows, arguments or {}),
        "method": _method_part(trainer, method, synthesis, train_seconds),
        "results": dict(results),
        "comparison": [],
        "figures": [],
        "tags": _tags(trainer),
        "collapsed_at": trainer.collapsed_at,
        "nonfinite_steps": trainer.nonfinite_steps,
        "environment": environment(),
    }
    return {**record, **parts, **({"synthesis": settings} if settings else {})}


def _model_part(trainer: Any, base_model: str | bool | None) -> dict[str, Any]:
    """The record's `model`: what it is called, and what it was before."""
    card, config = trainer.card_told, getattr(trainer.model, "config", None)
    if base_model is None:
        base_model = card.get("finetuned_from") or getattr(config, "_name_or_path", None)
    base = str(base_model) if base_model else None
    return {
        "name": Path(trainer.args.output_dir).name,
        "title": card.get("model_name"),
        "base_model": base,
        "base_repo": hub_id(base),
        "from_scratch": base_model is False,
        "license": card.get("license") or trainer.args.license,
        "language": card.get("language"),
        "repo": trainer.hub_model_id if trainer.args.push_to_hub else None,
    }


def _data_part(
    trainer: Any, name: str | None, revision: str | None, test_rows: int | None, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The record's `data`: what the model was trained on."""
    train, card = trainer.train_dataset, trainer.card_told
    source, commit = hub_source(train)
    name = name or ", ".join(_listed(card.get("dataset"))) or None
    if card.get("dataset_args"):
        arguments = {**arguments, "dataset_args": ", ".join(_listed(card["dataset_args"]))}
    return {
        "name": name or source,
        "repo": next(iter(_listed(card.get("dataset_tags"))), None) or hub_id(name) or source,
        "revision": revision or commit,
        "fingerprint": getattr(train, "_fingerprint", None),
        "train_rows": len(train) if hasattr(train, "__len__") else None,
        "test_rows": test_rows,
        "classes": list(getattr(getattr(trainer.model, "config", None), "id2label", {}).values()),
        "arguments": dict(arguments),
    }


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _tags(trainer: Any) -> list[str]:
    """What `create_model_card` and `model.add_model_tags` were told."""
    own = getattr(trainer.model, "model_tags", None)
    return [*_listed(trainer.card_told.get("tags")), *_listed(trainer.card_told.get("tasks")), *_listed(own)]


def _method_part(trainer: Any, name: str | None, synthesis: str | None, seconds: float | None) -> dict[str, Any]:
    """The record's `method`: how the model was trained, and for how long."""
    args, steps = trainer.args, trainer.state.global_step
    return {
        "name": name,
        "alpha": args.alpha,
        "any_guided": trainer.telemetry.any_guided,
        "form": args.guidance_form,
        "mode": "exact" if trainer.guidance.exact else "finite_difference",
        "fraction": args.guidance_fraction,
        "labels": args.guidance_labels,
        "synthesis": synthesis,
        "seed": args.seed,
        "steps": steps,
        "epochs": round(trainer.state.epoch or 0, 2),
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "learning_rate": args.learning_rate,
        "image_size": trainer.data_collator.spec.size[0],
        "num_frames": args.num_frames if args.video_column else None,
        "train_seconds": seconds,
        "seconds_per_step": None if seconds is None else seconds / max(steps, 1),
    }


def comparison_rows(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sums up a comparison for the cards: of each method the mean of every metric over its seeds, and their spread.

    Example:
        >>> run = {"method": {"name": "plain", "seed": 0}, "results": {"accuracy": 0.5}, "collapsed_at": None}
        >>> comparison_rows([run])
        [{'method': 'plain', 'seeds': [0], 'accuracy': 0.5}]
    """
    rows = []
    for name in dict.fromkeys(record["method"]["name"] for record in records):
        runs = [record for record in records if record["method"]["name"] == name]
        row: dict[str, Any] = {"method": name, "seeds": [run["method"]["seed"] for run in runs]}
        values = {
            metric: [run["results"][metric] for run in runs]
            for metric in runs[0]["results"]
            if all(metric in run["results"] for run in runs)
        }
        row |= {metric: float(np.mean(found)) for metric, found in values.items()}
        if len(runs) > 1:
            row["spread"] = {metric: float(np.std(found, ddof=1)) for metric, found in values.items()}
            row["collapsed"] = sum(run["collapsed_at"] is not None for run in runs)
        rows.append(row)
    return rows
