"""Tables of the localization benchmark, in percent; written by `benchmarks/write_results.py --write`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmarks.localization.plan import MIXES, Run, ablations, headline, objects, rates, scratch
from benchmarks.tables import RESULTS, Record, load, mean_and_spread, paired, seed_table, step_ratio_of
from hf_pgg.reports.comparison import chosen_maps, result_cells, results_table
from recipes import train_wsol

WSOL = RESULTS / "wsol.jsonl"
SEARCH = RESULTS / "wsol_search.jsonl"
DIGITS = RESULTS / "digits_localization.json"
COLUMNS = {
    "max_box_acc_v2": "MaxBoxAccV2",
    "max_box_acc_v2_30": "at 0.3",
    "max_box_acc_v2_50": "at 0.5",
    "max_box_acc_v2_70": "at 0.7",
    "box_acc_v2": "V2, train's threshold",
    "pixel_average_precision": "PxAP",
    "accuracy": "top-1",
    "target_gradient_share": "gradient share",
}


def title(run: dict) -> str:
    synthesis = {"none": "plain", "cutmix": "CutMix", "resizemix": "ResizeMix", "puzzlemix": "PuzzleMix"}
    name = synthesis[run["synthesis"]]
    if not run["keep_originals"]:
        name += f" only, {run['steps']} steps"
    if run["learning_rate"] != (3e-4 if run["backbone"] == "cnn" else 1e-3):
        name += f", learning rate {run['learning_rate']:g}"
    if run["alpha"] == 0:
        return name
    masks = ", automatic masks" if run["automatic"] else ""
    masks += "" if run["masks"] == "true" else f", masks: {run['masks'].replace(':', ' ')}"
    return f"{name} + {run['form']}, alpha {run['alpha']:g}{masks}"


def step_ratio(run: dict) -> str:
    """Of a step to the plain one on this backbone, or on a larger one of its kind."""
    if run["alpha"] == 0:
        return "1.0 x"
    variant = "first-order" if run["synthesis"] == "none" else "first-order, one of two labels"
    if run["backbone"] == "cnn":
        return step_ratio_of("efficientnet-lite0-imagenet1k", variant, "engines_batch32.json")
    return step_ratio_of({"vit": "ViT-S/16", "convnext": "ConvNeXt-T"}[run["backbone"]], variant)


def table_of(records: list[Record], runs: list[Run], twins: bool, backbone: str = "cnn") -> str:
    """Rows of some runs on a backbone, in the order of the plan."""
    return seed_table(
        [record for record in records if record["run"]["backbone"] == backbone],
        [vars(run) for run in runs if run.backbone == backbone],
        title,
        {key: (name, 100) for key, name in COLUMNS.items()},
        {"step": step_ratio},
        lead="max_box_acc_v2" if twins else None,
    )


def maps_table(records: list[Record], runs: list[Run]) -> str:
    """MaxBoxAccV2 of every map on the test photos, whichever the run's training photos chose; paired with its twin."""
    backbones = {run.backbone for run in runs}  # each has maps of its own
    measured = [r for r in records if "test" in r["localization"] and r["run"]["backbone"] in backbones]
    names = list(dict.fromkeys(name for r in measured for name in r["localization"]["test"]))
    values: dict[str, dict[str, dict[int, float]]] = {}  # training -> map -> seed -> V2
    twins: dict[str, str] = {}
    for run in runs:
        training = title(vars(run))
        if run.alpha > 0:
            twins[training] = title({**vars(run), "alpha": 0.0})
        for record in measured:
            if title(record["run"]) == training and record["run"]["backbone"] == run.backbone:
                for name, results in record["localization"]["test"].items():
                    by_seed = values.setdefault(training, {}).setdefault(name, {})
                    by_seed[record["run"]["seed"]] = 100 * results["max_box_acc_v2"]
    head = ["training", "seeds", *(f"{name}{suffix}" for name in names for suffix in ("", ", less its twin"))]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for training, maps in values.items():
        cells = [training, str(max(map(len, maps.values())))]
        for name in names:
            cells.append(mean_and_spread(maps[name].values(), 1))
            twin = values.get(twins.get(training, ""), {}).get(name, {})
            cells.append(paired(maps[name], twin, 1) if twin else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def search_table(records: list[Record]) -> str:
    """Every run of the search: MaxBoxAccV2 on the masked training photos, which is what the choices are made on."""
    lines = [
        "| training | learning rate | map | V2 on masked training photos | top-1 of training |",
        "| --- " * 5 + "|",
    ]
    for record in records:
        run = record["run"]
        chosen = record["localization"]["map"]
        best = 100 * record["localization"]["selection"][chosen]["max_box_acc_v2"]
        train = 100 * record["curve"][-1]["train_accuracy"]
        name = title({**run, "learning_rate": Run().learning_rate})
        lines.append(f"| {name} | {run['learning_rate']:g} | {chosen} | {best:.1f} | {train:.1f} |")
    return "\n".join(lines)


def place(run: Run) -> tuple[Any, ...]:
    """Plain first, and each mix before its guided twins."""
    return (("none", *MIXES).index(run.synthesis), run.automatic, run.form, run.masks != "true", run.masks, run.alpha)


def embedded_table() -> str:
    """The comparison on the embedded digits, as `train_wsol.py` prints it."""
    columns = {"map": chosen_maps, **result_cells(train_wsol.REPORTED)}
    return results_table(json.loads(DIGITS.read_text()), columns)


TABLES: dict[str, Callable[[], str]] = {
    "digits-localization": embedded_table,
    "wsol": lambda: table_of(load(WSOL, Run), sorted({*headline(), *objects()}, key=place), twins=True),
    "wsol-maps": lambda: maps_table(load(WSOL, Run), sorted({*headline(), *objects()}, key=place)),
    "wsol-rates": lambda: table_of(load(WSOL, Run), rates(), twins=True),
    "wsol-ablations": lambda: table_of(
        [record for record in load(WSOL, Run) if record["run"]["seed"] == 0],
        sorted({Run(), Run(synthesis="cutmix"), Run(automatic=True, alpha=1.0), *ablations()}, key=place),
        twins=False,
    ),
    "wsol-convnext": lambda: table_of(load(WSOL, Run), scratch(), twins=False, backbone="convnext"),
    "wsol-vit": lambda: table_of(load(WSOL, Run), scratch(), twins=False, backbone="vit"),
    "wsol-search": lambda: search_table(load(SEARCH, Run)),
}
