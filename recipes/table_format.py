"""What the tables share: reading results, mean and spread over seeds, paired differences."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from plan_runner import key_of
from scipy.stats import t as student

RESULTS = Path(__file__).resolve().parent / "results"
Record = dict[str, Any]


def load(path: Path, run_class: type) -> list[Record]:
    """Records of a results file, their runs with every field; the last one of a run that was repeated."""
    records = {}
    for record in map(json.loads, path.read_text().splitlines() if path.exists() else []):
        run = run_class(**record["run"])
        records[key_of(run)] = {**record, "run": asdict(run)}
    return list(records.values())


def mean_and_spread(values: Iterable[float], digits: int = 3) -> str:
    """Mean ± standard deviation over seeds; the mean alone for one seed, nothing for none."""
    array = np.array(list(values))
    if not len(array):
        return ""
    return f"{array.mean():.{digits}f}" + (f" ± {array.std(ddof=1):.{digits}f}" if len(array) > 1 else "")


def paired(ours: dict[int, float], twins: dict[int, float], digits: int = 3) -> str:
    """Mean difference over the seeds that both have, with its 95 % interval (Student's t)."""
    difference = np.array([ours[seed] - twins[seed] for seed in sorted(ours.keys() & twins.keys())])
    if len(difference) < 2:
        return ""
    half = student.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    mean = difference.mean()
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"
