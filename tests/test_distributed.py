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

from .conftest import tiny_model

ROOT = Path(__file__).resolve().parents[1]


def run(folder, processes, rows, **options):
    """Weights and losses of a run of the worker."""
    folder.mkdir()
    rows.save_to_disk(str(folder / "rows"))
    options |= {
        "rows": str(folder / "rows"),
        "weights": str(folder / "weights.pt"),
        "output_dir": str(folder / "out"),
    }
    (folder / "options.json").write_text(json.dumps(options))
    launch("tests.distributed_worker", folder / "options.json", processes)
    result = torch.load(folder / "weights.pt")
    assert result["processes"] == processes
    return result


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


@pytest.mark.parametrize("mode", ["exact", "finite_difference"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_equal_one(mode, accumulation, uneven, tmp_path):
    common = {"family": "convnext", "guidance_mode": mode, "gradient_accumulation_steps": accumulation}
    one = run(tmp_path / "one", 1, same_rows_for_one(uneven), per_device_train_batch_size=8, **common)
    two = run(tmp_path / "two", 2, uneven, per_device_train_batch_size=4, **common)
    start = torch.cat([v.flatten() for _, v in sorted(tiny_model("convnext").double().state_dict().items())])
    moved = (one["weights"] - start).norm()
    assert moved > 1e-4
    assert (one["weights"] - two["weights"]).norm() < 1e-6 * moved
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)


def test_every_process_knows_where_the_best_checkpoint_lies(uneven, tmp_path):
    result = run(tmp_path / "two", 2, uneven.select(range(16)), family="convnext", keep_best=True)
    first, second = result["best"]
    assert first == second and (Path(first) / "model.safetensors").is_file()


@pytest.mark.parametrize("sampling", [{}, {"fraction": 0.5}], ids=["all rows", "half"])
def test_sharded_parameters_equal_whole_ones_in_first_order_mode(sampling, tmp_path):
    """FSDP2 with torch's own `fully_shard` (Accelerate shards on accelerators only). One process has no guided row:
    both must make the same passes all the same."""
    (tmp_path / "options.json").write_text(json.dumps({"folder": str(tmp_path), **sampling}))
    launch("tests.sharded_worker", tmp_path / "options.json", processes=2)
    whole, sharded = torch.load(tmp_path / "whole.pt"), torch.load(tmp_path / "sharded.pt")
    assert whole["moved"] > 1e-4 and sharded["shards"] == 2
    assert (whole["weights"] - sharded["weights"]).norm() < 1e-6 * whole["moved"]
