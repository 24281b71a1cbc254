"""What the localization recipes share: which methods a comparison trains, for how long, and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from train_cls import RecipeConfig

from benchmarks.tables import mean_and_spread
from hf_pgg import PGGTrainer
from hf_pgg.localization.attribution import METHODS

Config = TypeVar("Config", bound=RecipeConfig)


def methods_of(synthesis: str, alpha: float, compare: bool, *, known: bool = False) -> dict[str, float]:
    """Name to alpha: plain training, synthesis, and synthesis with guidance; one of them, unless `compare`.

    Args:
        known: Whether the training rows have provenance themselves, which guides without any synthesis.
    """
    if synthesis == "none":
        methods = {"plain": 0.0, **({"guidance": alpha} if known else {})}
    else:
        methods = {"plain": 0.0, synthesis: 0.0, f"{synthesis} + guidance": alpha}
    if compare:
        return methods
    chosen = [name for name, value in methods.items() if (value > 0) == (alpha > 0)] or ["plain"]
    return {chosen[-1]: methods[chosen[-1]]}


def arguments_of(config: Config, name: str, alpha: float, seed: int, seeds: Sequence[int]) -> Config:
    """The settings of one run, which has its own folder, and its own repository where it is pushed."""
    folder = name.replace(" + ", "-") + (f"-seed{seed}" if len(seeds) > 1 else "")
    args = replace(config, output_dir=str(Path(config.output_dir or "out") / folder), alpha=alpha, seed=seed)
    if config.hub_model_id:
        args.hub_model_id = f"{config.hub_model_id}-{folder}"
    return args


def check_attributions(names: Sequence[str]) -> None:
    """Refuses a map that does not exist before anything is trained."""
    for name in names:
        if name not in METHODS:
            raise SystemExit(f"--attributions {name}: choose from {', '.join(METHODS)}")


def step_budget(args: RecipeConfig, rows: int) -> int:
    """Steps of `num_train_epochs` over `rows`, the synthesized ones included: one budget for all methods."""
    if args.max_steps > 0:
        return args.max_steps
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return round(args.num_train_epochs * rows / batch)


def benchmark_record(record: Mapping[str, Any], trainer: PGGTrainer, seconds: float) -> dict[str, Any]:
    """What a localization benchmark keeps of a run's record, with its learning curve."""
    history = [entry for entry in trainer.state.log_history if "classification_loss" in entry]
    keys = ("step", "classification_loss", "guidance_loss", "target_gradient_share", "train_accuracy")
    return {
        **{key: record[key] for key in ("results", "localization", "collapsed_at", "nonfinite_steps", "environment")},
        "train_seconds": seconds,
        "curve": [{key: round(entry[key], 4) for key in keys if key in entry} for entry in history],
    }


def table(records: Sequence[dict[str, Any]], reported: Mapping[str, tuple[str, float]]) -> str:
    """Method x results, mean and spread over seeds.

    Args:
        reported: Name of a result to its column's title and the factor that makes it percent.
    """
    lines = [f"| method | map | {' | '.join(title for title, _ in reported.values())} |"]
    lines.append("| --- " * (len(reported) + 2) + "|")
    for name in dict.fromkeys(record["method"]["name"] for record in records):
        runs = [record for record in records if record["method"]["name"] == name]
        cells = [name, ", ".join(sorted({run["localization"]["map"] for run in runs}))]
        for key, (_, factor) in reported.items():
            cells.append(mean_and_spread((factor * r["results"][key] for r in runs if key in r["results"]), 1))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
