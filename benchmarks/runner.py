"""Runs a benchmark's plan: one process a run, each result appended to a JSON-lines file, finished runs skipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from hf_pgg.cli.options import parse_options
from hf_pgg.reports.comparison import append_record


@dataclass
class PlanArguments:
    data: str = field(default="", metadata={"help": "Folder of the data sets and checkpoints, where some are read."})
    plan: str = field(default="search", metadata={"help": "Name of a plan, see the plans' file."})
    results: str | None = field(default=None, metadata={"help": "Results file, appended to; default: the README's."})
    jobs: int = field(default=1, metadata={"help": "Runs at a time, one process each."})
    run: str | None = field(default=None, metadata={"help": "One run as JSON; what a plan's processes get."})


def key_of(run: Any) -> str:
    """A run (a dataclass) as JSON, by which finished ones are known."""
    return json.dumps(asdict(run), sort_keys=True)


def finished(path: Path, run_class: type) -> set[str]:
    """Keys of the runs that are in the results file."""
    if not path.exists():
        return set()
    return {key_of(run_class(**json.loads(line)["run"])) for line in path.read_text().splitlines()}


def main(
    module: str, execute: Callable[[Any, str], dict[str, Any]], plans: ModuleType, run_class: type, default_results: str
) -> None:
    """The command line of a benchmark.

    Args:
        module: Name of the benchmark's own module, which the processes run.
        execute: (run, data folder) -> record, with the run as a dictionary under `run`.
        plans: Module of functions that give lists of runs.
        run_class: The runs' dataclass.
        default_results: Results file, where none is named.
    """
    (arguments,) = parse_options({"options": PlanArguments})
    path = Path(arguments.results or default_results)
    if arguments.run:
        append_record(path, execute(run_class(**json.loads(arguments.run)), arguments.data))
        return
    done = finished(path, run_class)
    todo: Sequence[Any] = [run for run in getattr(plans, arguments.plan)() if key_of(run) not in done]
    print(f"plan {arguments.plan}: {len(todo)} runs to do")

    def launch(run: Any) -> None:
        threads = max((os.cpu_count() or 1) // arguments.jobs, 1)
        command = [sys.executable, "-m", module, "--data", arguments.data, "--results", str(path), "--run", key_of(run)]
        env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        result = subprocess.run(command, env=env, capture_output=True, text=True)
        print(f"{'ok' if result.returncode == 0 else 'FAILED'} {key_of(run)}", flush=True)
        if result.returncode:
            print(result.stderr[-3000:], flush=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(launch, todo))
