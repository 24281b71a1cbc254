"""Tables of the JHMDB-21 benchmark, in percent; written by `benchmarks/write_results.py --write`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.clips.plan import MIXES, Run, ablations, headline, longer, search, tuned
from benchmarks.tables import RESULTS, Record, load, seed_table, step_ratio_of
from hf_pgg.reports.comparison import chosen_maps, result_cells, results_table
from recipes import train_stal

STAL = RESULTS / "stal.jsonl"
CLIPS = RESULTS / "clips.json"
UNJOINED = {key: column for key, column in train_stal.REPORTED.items() if key != "temporal_iou"}


def title(run: Mapping[str, Any]) -> str:
    name = {"none": "plain", "tilemix": "clips side by side", "actor": "actor on other scenes"}[run["synthesis"]]
    if run["epochs"] != Run.epochs:
        name += f", {run['epochs'] / Run.epochs:g} times the steps"
    if run["learning_rate"] != Run.learning_rate:
        name += f", learning rate {run['learning_rate']:g}"
    if run["alpha"] == 0:
        return name
    masks = "" if run["masks"] == "true" else f", masks: {run['masks'].replace(':', ' ')}"
    return f"{name} + {run['form']}, alpha {run['alpha']:g}{masks}"


def place(run: Run) -> tuple[Any, ...]:
    return (
        ("none", *MIXES).index(run.synthesis),
        run.epochs,
        run.learning_rate,
        run.alpha > 0,
        run.masks != "true",
        run.masks,
        run.form,
    )


def measured(runs: list[Run]) -> list[Record]:
    """What there is of some runs; the results file holds those of all plans."""
    return [record for record in load(STAL, Run) if Run(**record["run"]) in runs]


def table_of(runs: list[Run], columns: Mapping[str, tuple[str, float]], lead: str | None = None) -> str:
    """Rows of some runs, plain first, and each synthesis before its guided rows."""
    ordered = [vars(run) for run in sorted(set(runs), key=place)]
    return seed_table(measured(runs), ordered, title, columns, {"step": step_ratio}, lead=lead)


def ablations_table() -> str:
    """Seed 0."""
    runs = [*(run for run in headline() if run.seed == 0), *ablations()]
    return table_of(runs, UNJOINED)


def step_ratio(run: Mapping[str, Any]) -> str:
    """Of a step to the plain one, measured on a VideoMAE-S; of a mix one label is guided a step."""
    if run["alpha"] == 0:
        return "1.0 x"
    return step_ratio_of(
        "VideoMAE-S", "first-order" if run["synthesis"] == "actor" else "first-order, one of two labels"
    )


def search_table(records: list[Record]) -> str:
    """Every run of the search: frame-mAP on the validation clips, which is what the choices are made on."""
    lines = ["| training | learning rate | map at threshold | frame-mAP@0.5 of validation clips |", "| --- " * 4 + "|"]
    for record in records:
        run, selection = record["run"], record["localization"]["selection"]
        best = max(selection, key=selection.__getitem__)
        name, rate = title({**run, "learning_rate": Run.learning_rate}), run["learning_rate"]
        lines.append(f"| {name} | {rate:g} | {best} | {selection[best]:.1f} |")
    return "\n".join(lines)


def embedded_table() -> str:
    """The comparison on the embedded clips, as `train_stal.py` prints it."""
    columns = {"map": chosen_maps, **result_cells(train_stal.REPORTED)}
    return results_table(json.loads(CLIPS.read_text()), columns)


TABLES: dict[str, Callable[[], str]] = {
    "clips": embedded_table,
    "stal": lambda: table_of(headline(), train_stal.REPORTED, lead="frame_mAP@0.5"),
    "stal-ablations": ablations_table,
    "stal-tuned": lambda: table_of(tuned(), UNJOINED),
    "stal-longer": lambda: table_of(longer(), UNJOINED, lead="frame_mAP@0.5"),
    "stal-search": lambda: search_table(measured(search())),
}
