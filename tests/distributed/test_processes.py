"""Two processes give what one process gives on the same rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import concatenate_datasets

from hf_pgg import CutMix
from tests.conftest import tiny_model

pytestmark = pytest.mark.xdist_group("distributed")  # one worker: the tests share processes

ROOT = Path(__file__).resolve().parents[2]


def run(folder, processes, runs):
    """Weights and losses of some runs of the worker, by name; it is started once."""
    options = []
    for name, (rows, settings) in runs.items():
        rows.save_to_disk(str(folder / name / "rows"))
        places = {"rows": "rows", "weights": "weights.pt", "output_dir": "out"}
        options.append({**settings, **{key: str(folder / name / place) for key, place in places.items()}})
    (folder / "options.json").write_text(json.dumps(options))
    launch("tests.distributed.worker", folder / "options.json", processes)
    results = {name: torch.load(folder / name / "weights.pt") for name in runs}
    assert {result["processes"] for result in results.values()} == {processes}
    return results


def launch(module, options, processes):
    """Runs a worker in one process, or in two that find each other over the loopback."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command = [sys.executable, *(launcher if processes == 2 else []), "-m", module, str(options)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def uneven(photos, guided_photos):
    """22 rows: guided ones, mixed ones with two labels, unguided ones; the last batches are uneven."""
    bare = photos.remove_columns(["mask"]).map(
        lambda row: {"labels": [row["label"]], "label_weights": [1.0], "provenance": None},
        features=guided_photos.features,
    )
    mixed = CutMix(source=photos, seed=1).map(photos).remove_columns(["mask"])
    return concatenate_datasets([guided_photos.select(range(9)), mixed.select(range(6)), bare.select(range(7))])


def same_rows_for_one(rows, processes=2, batch=4):
    """What the processes' samplers draw, in one row: the last round is filled from the beginning."""
    missing = -len(rows) % (processes * batch)
    return concatenate_datasets([rows, rows.select(range(missing))])


CASES = {f"{mode}-{steps}": (mode, steps) for mode in ("exact", "finite_difference") for steps in (1, 2)}


def settings(mode, accumulation, batch):
    return {
        "family": "convnext",
        "guidance_mode": mode,
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": batch,
    }


@pytest.fixture(scope="module")
def one_process(uneven, tmp_path_factory):
    rows = same_rows_for_one(uneven)
    runs = {name: (rows, settings(*case, batch=8)) for name, case in CASES.items()}
    return run(tmp_path_factory.mktemp("one"), 1, runs)


@pytest.fixture(scope="module")
def two_processes(uneven, tmp_path_factory):
    runs = {name: (uneven, settings(*case, batch=4)) for name, case in CASES.items()}
    runs["best"] = (uneven.select(range(16)), {"family": "convnext", "keep_best": True})
    return run(tmp_path_factory.mktemp("two"), 2, runs)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case, one_process, two_processes):
    one, two = one_process[case], two_processes[case]
    start = torch.cat([v.flatten() for _, v in sorted(tiny_model("convnext").double().state_dict().items())])
    moved = (one["weights"] - start).norm()
    assert moved > 1e-4
    assert (one["weights"] - two["weights"]).norm() < 1e-6 * moved
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)


def test_every_process_knows_where_the_best_checkpoint_lies(two_processes):
    first, second = two_processes["best"]["best"]
    assert first == second and (Path(first) / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "options.json").write_text(json.dumps({"folder": str(folder), "fractions": [1.0, 0.5]}))
    launch("tests.distributed.sharded_worker", folder / "options.json", processes=2)
    return folder


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_sharded_parameters_equal_whole_ones_in_first_order_mode(fraction, sharded):
    """FSDP2 with torch's own `fully_shard` (Accelerate shards on accelerators only). One process has no guided row:
    both must make the same passes all the same."""
    whole, parts = (torch.load(sharded / f"{kind}-{fraction}.pt") for kind in ("whole", "sharded"))
    assert whole["moved"] > 1e-4 and parts["shards"] == 2
    assert (whole["weights"] - parts["weights"]).norm() < 1e-6 * whole["moved"]
