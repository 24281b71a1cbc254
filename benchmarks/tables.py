"""What the tables share: reading results, mean and spread over seeds, paired differences."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmarks.runner import key_of
from hf_pgg.reports.comparison import mean_and_spread, read_records
from hf_pgg.reports.record import environment

RESULTS = Path(__file__).resolve().parent / "results"
Record = dict[str, Any]


def load(path: Path, run_class: type) -> list[Record]:
    """Records of a results file, their runs with every field; the last one of a run that was repeated."""
    records = {}
    for record in read_records(path):
        run = run_class(**record["run"])
        records[key_of(run)] = {**record, "run": asdict(run)}
    return list(records.values())


def benchmark_record(trainer: Any, results: Record, localization: Record, seconds: float) -> Record:
    """What a localization benchmark keeps of a run, with its learning curve."""
    history = [entry for entry in trainer.state.log_history if "classification_loss" in entry]
    keys = ("step", "classification_loss", "guidance_loss", "target_gradient_share", "train_accuracy")
    return {
        "results": dict(results),
        "localization": localization,
        "collapsed_at": trainer.collapsed_at,
        "nonfinite_steps": trainer.nonfinite_steps,
        "environment": environment(),
        "train_seconds": seconds,
        "curve": [{key: round(entry[key], 4) for key in keys if key in entry} for entry in history],
    }


def paired(ours: dict[int, float], twins: dict[int, float], digits: int = 3) -> str:
    """Mean difference over the seeds that both have, with its 95 % interval (Student's t)."""
    difference = np.array([ours[seed] - twins[seed] for seed in sorted(ours.keys() & twins.keys())])
    if len(difference) < 2:
        return ""
    half = student.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    mean = difference.mean()
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"


def step_ratio_of(backbone: str, variant: str, engines: str = "engines.json") -> str:
    """Of a step to the plain one, as `benchmarks/cost/run.py` measured it within one run."""
    speed = json.loads((RESULTS / engines).read_text())["speed"][backbone]
    return f"{next(entry['ratio'] for entry in speed if entry['variant'] == variant):.1f} x"


def seed_table(
    records: Iterable[Record],
    runs: Iterable[Mapping[str, Any]],
    title: Callable[[Mapping[str, Any]], str],
    columns: Mapping[str, tuple[str, float]],
    more: Mapping[str, Callable[[Mapping[str, Any]], str]],
    lead: str | None = None,
) -> str:
    """A localization benchmark's table: trainings by results, aggregated over seeds; only what has been run.

    Args:
        runs: The rows, in their order; `title` names them.
        columns: Name of a result to its column's title and the factor that makes it percent.
        more: Further columns, of a run's settings.
        lead: A result of which guided rows give the paired difference to their unguided twins.
    """
    rows: dict[str, list[Record]] = {title(run): [] for run in runs}
    for record in records:
        rows.get(title(record["run"]), []).append(record)
    rows = {name: some for name, some in rows.items() if some}

    def by_seed(some: Sequence[Record]) -> dict[int, float]:
        return {record["run"]["seed"]: columns[lead][1] * record["results"][lead] for record in some}

    head = ["training", "seeds", "map", *(name for name, _ in columns.values()), *more]
    if lead:
        head.append(f"{columns[lead][0]}, less its unguided twin (95 %)")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for name, some in rows.items():
        run = some[0]["run"]
        cells = [name, str(len(some)), ", ".join(sorted({record["localization"]["map"] for record in some}))]
        for key, (_, factor) in columns.items():
            cells.append(mean_and_spread((factor * r["results"][key] for r in some if key in r["results"]), 1))
        cells += [make(run) for make in more.values()]
        if lead:
            twin = rows.get(title({**run, "alpha": 0.0}), [])
            cells.append(paired(by_seed(some), by_seed(twin), 1) if run["alpha"] > 0 else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
