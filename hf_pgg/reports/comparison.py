"""Methods x seeds: the loop that runs them, the table of their results, and what is written and pushed of each run.

A run is told by its record, see [`hf_pgg.reports.record`].
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import upload_folder

from hf_pgg.metrics.groups import current_names
from hf_pgg.reports.model_card import model_card
from hf_pgg.reports.record import comparison_rows

Record = dict[str, Any]
Cell = Callable[[Sequence[Record]], str]


def methods_of(synthesis: str, alpha: float, compare: bool, *, known: bool = False) -> dict[str, float]:
    """Names the methods to train, each with its weight of the guidance loss.

    A comparison trains plainly, with synthesis, and with synthesis and guidance; otherwise one of them is trained.

    Args:
        alpha (`float`): Weight of the guidance loss; without `compare`, 0 asks for the method without guidance.
        known (`bool`): Whether the training rows have provenance themselves, which guides without any synthesis.

    Example:
        >>> methods_of("cutmix", alpha=1.0, compare=True)
        {'plain': 0.0, 'cutmix': 0.0, 'cutmix + guidance': 1.0}
    """
    if synthesis == "none":
        methods = {"plain": 0.0, **({"guidance": alpha} if known else {})}
    else:
        methods = {"plain": 0.0, synthesis: 0.0, f"{synthesis} + guidance": alpha}
    if compare:
        return methods
    chosen = [name for name, value in methods.items() if (value > 0) == (alpha > 0)] or ["plain"]
    return {chosen[-1]: methods[chosen[-1]]}


def step_budget(args: Any, rows: int) -> int:
    """Returns the steps that `num_train_epochs` passes over `rows` take, or `max_steps` where it is set.

    Counting the synthesized rows for every method gives all methods of a comparison the same budget.

    Example:
        >>> from transformers import TrainingArguments
        >>> step_budget(TrainingArguments(per_device_train_batch_size=16, num_train_epochs=2, use_cpu=True), rows=160)
        20
    """
    if args.max_steps > 0:
        return args.max_steps
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return round(args.num_train_epochs * rows / batch)


def run_comparison(
    config: Any, methods: Mapping[str, float], seeds: Sequence[int], run: Callable[[str, Any], Record]
) -> list[Record]:
    """Runs every method with every seed; each run has a folder of its own, and a repository of its own if it is pushed.

    Args:
        methods (`Mapping[str, float]`): Name of a method to its weight of the guidance loss.
        run (`Callable`): Gets a method's name and its settings, trains, evaluates, saves, and returns the run's record.

    Example:
        >>> from dataclasses import make_dataclass
        >>> config = make_dataclass("Config", ["output_dir", "alpha", "seed", "hub_model_id"])("out", 1.0, 0, None)
        >>> run_comparison(config, {"plain": 0.0, "cutmix + guidance": 1.0}, [0], lambda name, args: args.output_dir)
        ['out/plain', 'out/cutmix-guidance']
    """
    records = []
    for seed in seeds:
        for name, alpha in methods.items():
            folder = name.replace(" + ", "-") + (f"-seed{seed}" if len(seeds) > 1 else "")
            args = replace(config, output_dir=str(Path(config.output_dir or "out") / folder), alpha=alpha, seed=seed)
            if args.hub_model_id and len(methods) * len(seeds) > 1:
                args.hub_model_id = f"{args.hub_model_id}-{folder}"
            records.append(run(name, args))
    return records


def mean_and_spread(values: Iterable[float], digits: int = 3) -> str:
    """Writes mean ± standard deviation; the mean alone of one value, and nothing of none.

    Example:
        >>> mean_and_spread([0.52, 0.54])
        '0.530 ± 0.014'
    """
    array = np.array(list(values))
    if not len(array):
        return ""
    return f"{array.mean():.{digits}f}" + (f" ± {array.std(ddof=1):.{digits}f}" if len(array) > 1 else "")


def result_cells(columns: Mapping[str, tuple[str, float]], digits: int = 1) -> dict[str, Cell]:
    """Makes columns of a results table that give mean and spread of results over a method's runs.

    `columns` are names of results in the records, to the title of the column and the factor of the result.

    Example:
        >>> columns = result_cells({"accuracy": ("top-1", 100)})
        >>> columns["top-1"]([{"results": {"accuracy": 0.52}}, {"results": {"accuracy": 0.54}}])
        '53.0 ± 1.4'
    """

    def cell(key: str, factor: float) -> Cell:
        return lambda runs: mean_and_spread((factor * r["results"][key] for r in runs if key in r["results"]), digits)

    return {title: cell(key, factor) for key, (title, factor) in columns.items()}


def results_table(records: Sequence[Record], columns: Mapping[str, Cell]) -> str:
    """Writes the results table in Markdown: one line for each method, aggregated over its seeds.

    Methods stand in the order of their first run; failed runs are counted. For `columns` see [`result_cells`].

    Example:
        >>> record = {"method": {"name": "plain"}, "results": {"accuracy": 0.5}}
        >>> print(results_table([record], result_cells({"accuracy": ("accuracy", 1)}, digits=3)))
        | method | accuracy |
        | --- | --- |
        | plain | 0.500 |
    """
    lines = [f"| method | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    for name in dict.fromkeys(record["method"]["name"] for record in records):
        runs = [record for record in records if record["method"]["name"] == name]
        failed = sum(run.get("collapsed_at") is not None for run in runs)
        note = f" ({failed} of {len(runs)} failed)" if failed else ""
        lines.append(f"| {name}{note} | {' | '.join(cell(runs) for cell in columns.values())} |")
    return "\n".join(lines)


def settings_table(records: Sequence[Record], settings: Sequence[str], split: str, figures: Mapping[str, str]) -> str:
    """Writes a table in Markdown: one line for each combination of settings, with mean and spread over its runs.

    Args:
        records: Each holds its `settings`, and its figures under the name of `split`.
        figures (`Mapping[str, str]`): Names of figures to the titles of their columns.

    Example:
        >>> real = {"data": "real", "guided": True}
        >>> records = [{"settings": real, "test": {"accuracy": value}} for value in (0.5, 0.7)]
        >>> print(settings_table(records, ["data", "guided"], "test", {"accuracy": "accuracy"}))
        | data | guided | accuracy | runs |
        | --- | --- | --- | --- |
        | real | yes | 0.600 ± 0.141 | 2 |
    """
    lines = [f"| {' | '.join([*settings, *figures.values(), 'runs'])} |"]
    lines += ["|" + " --- |" * (len(settings) + len(figures) + 1)]
    cells: dict[tuple[Any, ...], list[Any]] = {}
    for record in records:
        values = [record["settings"][name] for name in settings]
        key = tuple(("no", "yes")[value] if isinstance(value, bool) else value for value in values)
        cells.setdefault(key, []).append(current_names(record[split]))
    for key, runs in cells.items():
        line = (*key, *(mean_and_spread(run[name] for run in runs) for name in figures), len(runs))
        lines.append(f"| {' | '.join(map(str, line))} |")
    return "\n".join(lines)


def step_time(records: Sequence[Record]) -> Cell:
    """Makes the cell that gives the median time of a step over that of the first method of `records`.

    Example:
        >>> records = [{"method": {"name": name, "seconds_per_step": t}} for name, t in (("plain", 2), ("guided", 5))]
        >>> step_time(records)(records[1:])
        '2.5 x'
    """

    def seconds(runs: Sequence[Record]) -> float:
        return float(np.median([run["method"]["seconds_per_step"] for run in runs]))

    first = seconds([record for record in records if record["method"]["name"] == records[0]["method"]["name"]])
    return lambda runs: f"{seconds(runs) / first:.1f} x"


def chosen_maps(runs: Sequence[Record]) -> str:
    """Writes which attribution maps the runs of a method chose to locate with.

    Example:
        >>> chosen_maps([{"localization": {"map": "grad_cam"}}, {"localization": {"map": "cam"}}])
        'cam, grad_cam'
    """
    return ", ".join(sorted({run["localization"]["map"] for run in runs}))


def read_records(path: Path) -> list[Record]:
    """Reads the records of a JSON-lines file; there are none where there is no file yet.

    Example:
        >>> read_records(Path("no_such_file.jsonl"))
        []
    """
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append_record(path: Path, record: Record) -> None:
    """Adds a line to a JSON-lines file, which is made if need be: [`read_records`] reads it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "runs", "results.jsonl")
        >>> append_record(path, {"seed": 0})
        >>> read_records(path)
        [{'seed': 0}]
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def report(records: Sequence[Record], columns: Mapping[str, Cell], figures: Mapping[str, str], config: Any) -> None:
    """Writes what is kept of a comparison, uploads what belongs to pushed models, and prints the results table.

    The output folder gets `results.json` of all runs, and the folder of each run its own, its model card and the
    figures. Each record gets the comparison of all, and the list of figures (file to title): a file in the output
    folder is copied to each run, others are in the runs' folders.

    Example:
        >>> import tempfile
        >>> from types import SimpleNamespace
        >>> config = SimpleNamespace(output_dir=tempfile.mkdtemp(), hub_token=None)
        >>> report([], {"map": chosen_maps}, {}, config)  # doctest: +ELLIPSIS
        | method | map |
        | --- | --- |
        written: .../results.json
    """
    out = Path(config.output_dir)
    for record in records:
        folder = out / record["model"]["name"]
        record["comparison"] = comparison_rows(records)
        record["figures"] = [{"file": file, "title": title} for file, title in figures.items()]
        for file in figures:
            if (out / file).exists():
                (folder / file).write_bytes((out / file).read_bytes())
        (folder / "results.json").write_text(json.dumps(record, indent=1) + "\n")
        model_card(record).save(folder / "README.md")
    (out / "results.json").write_text(json.dumps(records, indent=1) + "\n")
    for record in records:
        if record["model"]["repo"]:
            upload_folder(
                repo_id=record["model"]["repo"],
                folder_path=out / record["model"]["name"],
                allow_patterns=["README.md", "results.json", *figures],
                commit_message="Model card and run record",
                token=config.hub_token,
            )
    print(results_table(records, columns))
    print("written:", ", ".join([f"{out}/results.json", *figures]))
