"""Tables of the documentation from the stored results: `python -m benchmarks.write_results [--write]`.

`--write` puts them between the markers of the README and of the pages in `docs/results`; a test checks that they still
stand there. Rows are aggregated over seeds; the last column is the paired difference to the row's unguided twin over
the seeds both have, with a 95 % interval (Student's t).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clips import table as stal_table
from benchmarks.figures.story import story_table
from benchmarks.generation import table as generation_table
from benchmarks.localization import table as wsol_table
from benchmarks.pets.plan import Run
from benchmarks.pets.run import CHECKPOINTS
from benchmarks.summary import summary_table
from benchmarks.tables import RESULTS, Record, load, paired, step_ratio_of
from hf_pgg.reports.comparison import mean_and_spread, result_cells, results_table, step_time
from recipes import train_cls

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs" / "results").glob("*.md")))
PETS = RESULTS / "pets.jsonl"
SEARCH = RESULTS / "pets_search.jsonl"
DIGITS = RESULTS / "digits.json"
ENGINES = RESULTS / "engines.json"
DATA = RESULTS / "data.json"
SKELETONS = RESULTS / "skeletons.json"
SKELETON_COLUMNS = {
    "accuracy": ("clip accuracy", 1),
    **{
        key: (key.replace("_", " "), 1)
        for key in ("person_accuracy", "frame_accuracy", "who_acts", "target_gradient_share")
    },
}


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
    part = f", {run['extra']['guidance_fraction']:.0%} of the rows" if "guidance_fraction" in run["extra"] else ""
    return f"{base}{run['form']}, alpha {run['alpha']:g}{masks}{mode}{part}"


TWINS = {"guided": "plain", "exchange+guided": "exchange", "unbiased+guided": "unbiased"}


def settings_of(run: dict[str, Any]) -> str:
    """The settings whose table shows a run: training without bias is the same for a and b."""
    return "ab" if "unbiased" in run["method"] and run["setting"] in "ab" else run["setting"]


def worst_group(runs: list[Record]) -> float:
    return float(np.mean([r["test_worst_group_accuracy"] for r in runs]))


def pets_table(records: list[Record], setting: str, backbone: str) -> str:
    """Rows of one setting and backbone, in the order in which they were first run."""
    chosen = [r for r in records if r["run"]["backbone"] == backbone and setting in settings_of(r["run"])]
    rows: dict[str, list[Record]] = {}
    for record in sorted(chosen, key=lambda r: ("unbiased" not in r["run"]["method"], r["run"]["alpha"] > 0)):
        rows.setdefault(name(record["run"]), []).append(record)

    def by_seed(runs: list[Record], key: str) -> dict[int, float]:
        return {r["run"]["seed"]: r[key] for r in runs}

    plain = [r for runs in rows.values() for r in runs if r["run"]["method"] == "plain"]
    unbiased = [r for runs in rows.values() for r in runs if r["run"]["method"] == "unbiased"]
    lines = [
        "| training | seeds | accuracy | worst group | distance closed | target gradient share | step"
        " | worst group, less its unguided twin (95 %) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
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
            f" | {closed(runs, plain, unbiased)}"
            f" | {mean_and_spread(r['test_target_gradient_share'] for r in runs)}"
            f" | {step_ratio(runs[0]['run'])} | {difference} |"
        )
    return "\n".join(lines)


def closed(runs: list[Record], plain: list[Record], unbiased: list[Record]) -> str:
    """Share of the way in worst group from no guidance to no bias, over the seeds that all three have."""
    if not plain or not unbiased or "unbiased" in runs[0]["run"]["method"] or runs[0]["run"]["method"] == "plain":
        return ""
    seeds = set.intersection(*({r["run"]["seed"] for r in some} for some in (runs, plain, unbiased)))
    ours, low, high = (worst_group([r for r in some if r["run"]["seed"] in seeds]) for some in (runs, plain, unbiased))
    return f"{(ours - low) / (high - low):.0%}"


def step_ratio(run: dict[str, Any]) -> str:
    """Of a guided step to a plain one, as `benchmarks/cost/run.py` measured it within one run on this backbone."""
    if run["alpha"] == 0:
        return "1.0 x"
    variant = "exact" if run["extra"].get("guidance_mode") == "exact" else "first-order"
    if "guidance_fraction" in run["extra"]:
        variant += ", a quarter of the rows"
    return step_ratio_of(CHECKPOINTS[run["backbone"]][0], variant)


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
    records = json.loads(path.read_text())
    columns = {**result_cells(train_cls.REPORTED, digits=3), "time of a step": step_time(records)}
    return results_table(records, columns)


def speed_table(path: Path = ENGINES) -> str:
    """Steps and memory over those of a plain step."""
    record = json.loads(path.read_text())
    names = list(record["speed"])
    lines = [f"| step / memory, in plain ones | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for i, entry in enumerate(record["speed"][names[0]]):
        cells = (f"{record['speed'][n][i]['ratio']:.2f} / {record['speed'][n][i]['memory_ratio']:.2f}" for n in names)
        lines.append(f"| {entry['variant']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def precision_table(path: Path = ENGINES) -> str:
    """Agreement of the parameter gradient with exact mode in float64."""
    record = json.loads(path.read_text())
    names = list(record["precision"])
    modes: dict[tuple[str, str], dict[str, str]] = {}
    for n in names:
        for entry in record["precision"][n]:
            cell = f"{entry['cosine']:.4f} ({entry['norm_ratio']:.2f})"
            modes.setdefault((entry["precision"], entry["mode"]), {})[n] = cell
    lines = [f"| precision, mode | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for (precision, mode), cells in modes.items():
        lines.append(f"| {precision}, {mode} | {' | '.join(cells.get(n, '') for n in names)} |")
    return "\n".join(lines)


def data_table(path: Path = DATA) -> str:
    record = json.loads(path.read_text())
    lines = ["| method | rows/s | over its floor |", "| --- | --- | --- |"]
    for name, ratio in record["over_the_floor"].items():
        lines.append(f"| {name} | {record['rows_per_second'][name]:.0f} | {ratio:.2f} x |")
    rate, ratio = record["rows_per_second"]["collator"], record["collator_over_plain"]
    lines.append(f"| collator (floor: the plain pipeline, no masks) | {rate:.0f} | {ratio:.2f} x |")
    return "\n".join(lines)


def skeletons_table(data: str, path: Path = SKELETONS) -> str:
    """The comparison on one data set, as `train_skeletons.py` prints it."""
    records = [r for r in json.loads(path.read_text()) if r["data"]["name"] == data]
    return results_table(records, result_cells(SKELETON_COLUMNS, digits=3))


TABLES: dict[str, Callable[[], str]] = {
    "summary": summary_table,
    "digits": digits_table,
    "story": story_table,
    "skeletons": lambda: skeletons_table("jhmdb21-160p"),
    "pets-a-cnn": lambda: pets_table(load(PETS, Run), "a", "cnn"),
    "pets-b-cnn": lambda: pets_table(load(PETS, Run), "b", "cnn"),
    "pets-b-vit": lambda: pets_table(load(PETS, Run), "b", "vit"),
    "pets-c-cnn": lambda: pets_table(load(PETS, Run), "c", "cnn"),
    "speed": speed_table,
    "speed-batch32": lambda: speed_table(RESULTS / "engines_batch32.json"),
    "precision": precision_table,
    "data": data_table,
    "search": lambda: search_table(load(SEARCH, Run)),
    **wsol_table.TABLES,
    **stal_table.TABLES,
    **generation_table.TABLES,
}


def filled(text: str) -> str:
    """The text of a page with every marked table made anew."""
    for key, make in TABLES.items():
        start, end = f"<!-- table {key} -->\n", f"<!-- end {key} -->"
        if start in text:
            before, rest = text.split(start, 1)
            text = before + start + make() + "\n" + end + rest.split(end, 1)[1]
    return text


def main() -> None:
    if "--write" in sys.argv[1:]:
        for page in PAGES:
            page.write_text(filled(page.read_text()))
    else:
        for key, make in TABLES.items():
            print(f"## {key}\n{make()}\n")


if __name__ == "__main__":
    main()
