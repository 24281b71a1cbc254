"""Tables of generated training data, in percent; written by `benchmark_table.py --write`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.generation.plan import Run, headline
from benchmarks.tables import RESULTS, Record, load, mean_and_spread, paired, read_records
from hf_pgg.metrics.groups import current_names

GENERATION = RESULTS / "generation.jsonl"
SEARCH = RESULTS / "generation_search.jsonl"
FFR = RESULTS / "ffr.jsonl"
FFR_SEARCH = RESULTS / "ffr_search.jsonl"
FFR_ARTIFACT = RESULTS / "ffr_artifact.jsonl"
SETS = ("1x", "5x", "real + 1x", "real + 5x")
DATA = {"real": "real only", "usb": "USB", "asb": "ASB", "ffr": "FFR"}
METHODS = {"erm": "ERM", "resample": "resampling", "groupdro": "GroupDRO", "dfr": "DFR"}


def generator(matching: float | None) -> str:
    if matching is None:
        return "none: real digits"
    return "plain" if matching == 0 else f"matching, weight {matching:g}"


def real_fake_table(records: list[Record]) -> str:
    """Generators by training sets: test accuracy of the classifier; at 1x the paired difference to the plain one."""
    head = ["generator", "seeds", *SETS, "1x, less the plain one's (95 %)", "class means, distance to test"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]

    def accuracy(matching: float | None, name: str) -> dict[int, float]:
        return {
            record["run"]["seed"]: 100 * record["classifiers"][name]["test"]
            for record in records
            if record["run"]["matching"] == matching and name in record["classifiers"]
        }

    for matching in dict.fromkeys(run.matching for run in headline()):
        some = [record for record in records if record["run"]["matching"] == matching]
        if not some:
            continue
        names = ["real"] * len(SETS) if matching is None else SETS
        cells = [mean_and_spread(accuracy(matching, name).values(), 1) for name in names]
        if matching is None:
            cells[1:] = [""] * (len(SETS) - 1)
        gain = paired(accuracy(matching, "1x"), accuracy(0.0, "1x"), 1) if matching else ""
        key = "class_mean_distance_of_real" if matching is None else "class_mean_distance"
        cells += [gain, mean_and_spread((record[key] for record in some), 3)]
        lines.append(f"| {generator(matching)} | {len(some)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def search_table(records: list[Record]) -> str:
    """Every run of the search: validation decides, test is not shown."""
    lines = ["| generator | denoising loss | matching loss | 1x, validation | 5x, validation |", "| --- " * 5 + "|"]
    for record in records:
        losses, sets = record["generator"], record["classifiers"]
        lines.append(
            f"| {generator(record['run']['matching'])} | {losses['denoising_loss']:.4f} | {losses['matching_loss']:.5f}"
            f" | {100 * sets['1x']['validation']:.1f} | {100 * sets['5x']['validation']:.1f} |"
        )
    return "\n".join(lines)


def figures_of(records: list[Record], figure: str, **wanted: Any) -> list[float]:
    """A figure of the test rows, in percent, of the cells with certain settings."""
    return [
        100 * current_names(record["test"])[figure]
        for record in records
        if all(record["settings"][name] == value for name, value in wanted.items())
    ]


def ffr_table(figure: str) -> str:
    """Methods and biases by data, guided FFR last: a figure of the test rows, mean and spread over seeds."""
    records = read_records(FFR)
    columns: list[tuple[str, bool]] = [*((data, False) for data in DATA), ("ffr", True)]
    head = ["bias", "method", *DATA.values(), "FFR + guidance", "seeds"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for bias in sorted({record["settings"]["bias"] for record in records}):
        for method, name in METHODS.items():
            cells = [
                figures_of(records, figure, bias=bias, method=method, data=data, guided=guided)
                for data, guided in columns
            ]
            if any(cells):
                seeds = "/".join(dict.fromkeys(str(len(cell)) for cell in cells if cell))
                lines.append(f"| {bias} | {name} | {' | '.join(mean_and_spread(c, 1) for c in cells)} | {seeds} |")
    return "\n".join(lines)


def gains_table() -> str:
    """What the papers claim, as paired differences of the worst group over seeds, averaged over the methods."""
    records = read_records(FFR)
    pairs: list[tuple[str, tuple[str, bool], tuple[str, bool]]] = [
        ("FFR less ASB", ("ffr", False), ("asb", False)),
        ("ASB less USB", ("asb", False), ("usb", False)),
        ("guided FFR less FFR", ("ffr", True), ("ffr", False)),
    ]
    biases = sorted({record["settings"]["bias"] for record in records})
    lines = [f"| worst group | {' | '.join(f'bias {bias}' for bias in biases)} |", "| --- " * (len(biases) + 1) + "|"]

    def by_seed(bias: float, data: str, guided: bool) -> dict[int, float]:
        found: dict[int, list[float]] = {}
        for record in records:
            s: dict[str, Any] = record["settings"]
            if (s["bias"], s["data"], s["guided"]) == (bias, data, guided):
                found.setdefault(s["seed"], []).append(100 * record["test"]["worst_group_accuracy"])
        return {seed: sum(some) / len(some) for seed, some in found.items() if len(some) == len(METHODS)}

    for name, ours, theirs in pairs:
        lines.append(
            f"| {name} | {' | '.join(paired(by_seed(bias, *ours), by_seed(bias, *theirs), 1) for bias in biases)} |"
        )
    return "\n".join(lines)


def ffr_search_table() -> str:
    """Every run of FFR's search: validation decides, test is not shown."""
    lines = [
        "| data | method | learning rate | of FFR's stage two | alpha | worst group, validation |",
        "| --- " * 6 + "|",
    ]
    for record in read_records(FFR_SEARCH):
        s, rate = record["settings"], record["settings"]["learning_rate"]
        second = f"{s['stage_two_learning_rate']:g}" if s["data"] == "ffr" else ""
        alpha = f"{s['alpha']:g}" if s["guided"] else "no guidance"
        worst = 100 * record["validation"]["worst_group_accuracy"]
        lines.append(f"| {DATA[s['data']]} | {METHODS[s['method']]} | {rate:g} | {second} | {alpha} | {worst:.1f} |")
    return "\n".join(lines)


def artifact_table() -> str:
    """Worst group of ERM at bias 0.99, where an artifact tells synthetic rows from real ones and where it does not."""
    without, marked = read_records(FFR), read_records(FFR_ARTIFACT)
    lines = ["| data | as generated | under a checkerboard |", "| --- " * 3 + "|"]
    for data, guided in (("usb", False), ("asb", False), ("ffr", False), ("ffr", True)):
        wanted = {"bias": 0.99, "method": "erm", "data": data, "guided": guided}
        cells = [figures_of(records, "worst_group_accuracy", **wanted) for records in (without, marked)]
        name = DATA[data] + (" + guidance" if guided else "")
        lines.append(f"| {name} | {' | '.join(mean_and_spread(cell, 1) for cell in cells)} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "generation": lambda: real_fake_table(load(GENERATION, Run)),
    "generation-search": lambda: search_table(load(SEARCH, Run)),
    "ffr": lambda: ffr_table("worst_group_accuracy"),
    "ffr-mean-group": lambda: ffr_table("mean_group_accuracy"),
    "ffr-gains": gains_table,
    "ffr-search": ffr_search_table,
    "ffr-artifact": artifact_table,
}
