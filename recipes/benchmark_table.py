"""Tables of the README from the stored results: `python recipes/benchmark_table.py [--write]`.

`--write` puts them between the README's markers; a test checks that they still stand there. Rows are aggregated over
seeds; the last column is the paired difference to the row's unguided twin over the seeds both have, with a 95 %
interval (Student's t).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_plans import Run
from scipy.stats import t as student

ROOT = Path(__file__).resolve().parents[1]
PETS = ROOT / "recipes" / "results" / "pets.jsonl"
SEARCH = ROOT / "recipes" / "results" / "pets_search.jsonl"
DIGITS = ROOT / "recipes" / "results" / "digits.json"
Record = dict[str, Any]


def load(path: Path) -> list[Record]:
    """Records of a results file, the last one of a run that was repeated."""
    if not path.exists():
        return []
    return list({Run(**r["run"]).key: r for r in map(json.loads, path.read_text().splitlines())}.values())


def mean_and_spread(values: Iterable[float]) -> str:
    array = np.array(list(values))
    return f"{array.mean():.3f}" + (f" ± {array.std(ddof=1):.3f}" if len(array) > 1 else "")


def paired(ours: dict[int, float], twins: dict[int, float]) -> str:
    """Mean difference over the seeds that both have, with its 95 % interval."""
    difference = np.array([ours[seed] - twins[seed] for seed in sorted(ours.keys() & twins.keys())])
    if len(difference) < 2:
        return ""
    half = student.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    return f"{difference.mean():+.3f} [{difference.mean() - half:+.3f}, {difference.mean() + half:+.3f}]"


def name(run: dict[str, Any]) -> str:
    """How a row is called."""
    words = {
        "plain": "synthesis, no guidance",
        "no-edits": "no edits, no guidance",
        "unbiased": "no bias in training, no guidance",
        "exchange": "background exchange, no guidance",
    }
    if run["alpha"] == 0:
        return words[run["method"]]
    base = {"guided": "", "exchange+guided": "background exchange + ", "unbiased+guided": "no bias + "}[run["method"]]
    masks = "" if run["masks"] == "true" else f", {run['masks']} masks"
    mode = ", exact mode" if run["extra"].get("guidance_mode") == "exact" else ""
    return f"{base}{run['form']}, alpha {run['alpha']:g}{masks}{mode}"


TWINS = {"guided": "plain", "exchange+guided": "exchange", "unbiased+guided": "unbiased"}


def pets_table(records: list[Record], setting: str, backbone: str) -> str:
    """Rows of one setting and backbone, in the order in which they were first run."""
    chosen = [
        r
        for r in records
        if r["run"]["backbone"] == backbone and (r["run"]["setting"] == setting or "unbiased" in r["run"]["method"])
    ]
    rows: dict[str, list[Record]] = {}
    for record in sorted(chosen, key=lambda r: ("unbiased" not in r["run"]["method"], r["run"]["alpha"] > 0)):
        rows.setdefault(name(record["run"]), []).append(record)

    def by_seed(runs: list[Record], key: str) -> dict[int, float]:
        return {r["run"]["seed"]: r[key] for r in runs}

    plain = [r for runs in rows.values() for r in runs if r["run"]["method"] == "plain"]
    lines = [
        "| training | seeds | accuracy | worst group | target gradient share | step"
        " | worst group, less its unguided twin (95 %) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, runs in rows.items():
        twin = TWINS.get(runs[0]["run"]["method"]) if runs[0]["run"]["alpha"] > 0 else None
        difference = ""
        if twin:
            twins = [r for r in chosen if r["run"]["method"] == twin and r["run"]["alpha"] == 0]
            difference = paired(by_seed(runs, "test_worst_group_accuracy"), by_seed(twins, "test_worst_group_accuracy"))
        failed = sum(r["collapsed_at"] is not None for r in runs)
        lines.append(
            f"| {title}{f' ({failed} of {len(runs)} runs failed)' if failed else ''} | {len(runs)}"
            f" | {mean_and_spread(r['test_accuracy'] for r in runs)}"
            f" | {mean_and_spread(r['test_worst_group_accuracy'] for r in runs)}"
            f" | {mean_and_spread(r['test_target_gradient_share'] for r in runs)}"
            f" | {step_ratio(runs, plain)} | {difference} |"
        )
    return "\n".join(lines)


def step_ratio(runs: list[Record], plain: list[Record]) -> str:
    def seconds(some: list[Record]) -> float:
        return float(np.median([r["train_seconds"] / r["steps"] for r in some]))

    return f"{seconds(runs) / seconds(plain):.1f} x" if plain else ""


def search_table(records: list[Record]) -> str:
    """Every run of the search: validation decides, test is not shown."""
    lines = [
        "| setting, backbone | training | validation accuracy | validation worst group |",
        "| --- | --- | --- | --- |",
    ]
    for r in records:
        run = r["run"]
        extra = [f"learning rate {run['learning_rate']:g}"] + [f"{k} {v}" for k, v in run["extra"].items()]
        extra += [f"head first, {run['head_epochs']} epochs"] if run["head_epochs"] else []
        extra += ["centred logit"] if run["logit"] == "centered" else []
        lines.append(
            f"| {run['setting']}, {run['backbone']} | {name(run)}; {', '.join(extra)}"
            f" | {r['validation_accuracy']:.3f} | {r['validation_worst_group_accuracy']:.3f} |"
        )
    return "\n".join(lines)


def digits_table(path: Path = DIGITS) -> str:
    """The table that the recipe itself prints, from its stored results."""
    from train_cls import table

    return table(json.loads(path.read_text())) if path.exists() else "not run yet"


TABLES: dict[str, Callable[[], str]] = {
    "digits": digits_table,
    "pets-a-cnn": lambda: pets_table(load(PETS), "a", "cnn"),
    "pets-b-cnn": lambda: pets_table(load(PETS), "b", "cnn"),
    "pets-a-vit": lambda: pets_table(load(PETS), "a", "vit"),
    "pets-b-vit": lambda: pets_table(load(PETS), "b", "vit"),
    "search": lambda: search_table(load(SEARCH)),
}


def filled(readme: str) -> str:
    """The README with every marked table made anew."""
    for key, make in TABLES.items():
        start, end = f"<!-- table {key} -->\n", f"<!-- end {key} -->"
        if start in readme:
            before, rest = readme.split(start, 1)
            readme = before + start + make() + "\n" + end + rest.split(end, 1)[1]
    return readme


def main() -> None:
    path = ROOT / "README.md"
    text = filled(path.read_text())
    if "--write" in sys.argv[1:]:
        path.write_text(text)
    else:
        for key, make in TABLES.items():
            print(f"## {key}\n{make()}\n")


if __name__ == "__main__":
    main()
