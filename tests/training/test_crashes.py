"""A killed run resumes to the weights of an uninterrupted one, bit for bit; a full disk costs no checkpoint."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification
from transformers.trainer_utils import get_last_checkpoint

from tests.training.crash_worker import STEPS

ROOT = Path(__file__).resolve().parents[2]


def start(folder, mode, *more):
    """The worker, once it has begun to train."""
    command = [sys.executable, "-m", "tests.training.crash_worker", str(folder), mode, *map(str, more)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.strip() == "ready":
            return process
    raise AssertionError(process.stderr.read()[-3000:])


def finish(process):
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def wait_for_step(process, step, part):
    """Waits for a step, or the first later one that is not the run's first; then for a part of a step's time."""
    begins = []
    for line in process.stdout:
        if line.startswith("step "):
            begins.append(time.monotonic())
            if len(begins) > 1 and int(line.split()[1]) >= step:
                time.sleep(part * (begins[-1] - begins[-2]))
                return


@pytest.fixture
def folder(guided_photos, tmp_path):
    def make(name):
        path = tmp_path / name
        guided_photos.add_column("row_id", list(range(len(guided_photos)))).save_to_disk(str(path / "rows"))
        return path

    return make


def kill_and_resume(folder, mode, kills, seed):
    """Kills the worker at random moments; returns the number of kills that hit a run under way."""
    whole = folder("whole")
    code, errors = finish(start(whole, mode))
    assert code == 0, errors[-3000:]
    draw, cut, hits = random.Random(seed), folder("cut"), 0
    for _ in range(kills):
        process = start(cut, mode)
        wait_for_step(process, draw.randint(2, STEPS - 2), draw.random())
        hits += process.poll() is None
        process.kill()
        process.communicate()
        last = get_last_checkpoint(str(cut / "out")) if (cut / "out").exists() else None
        if last is not None:  # whatever stands there is whole
            AutoModelForImageClassification.from_pretrained(last)
        if (cut / "weights.pt").exists():
            break
    if not (cut / "weights.pt").exists():
        code, errors = finish(start(cut, mode))
        assert code == 0, errors[-3000:]
    assert torch.equal(torch.load(whole / "weights.pt"), torch.load(cut / "weights.pt"))
    return hits


@pytest.mark.parametrize("mode", ["exact", "finite_difference"])
def test_a_run_killed_twice_ends_with_the_same_weights(mode, folder):
    assert kill_and_resume(folder, mode, kills=2, seed=0) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "finite_difference"])
def test_twenty_kills(mode, folder):
    hits, seed = 0, 1
    while hits < 20:
        hits += kill_and_resume(lambda name, seed=seed: folder(f"{name}-{seed}"), mode, kills=4, seed=seed)
        seed += 1


def test_a_full_disk_leaves_the_last_good_checkpoint(folder):
    path = folder("full")
    code, errors = finish(start(path, "finite_difference", 2000))
    assert code != 0 and "disk full: writing to" in errors
    last = get_last_checkpoint(str(path / "out"))
    assert last.endswith("checkpoint-4")
    AutoModelForImageClassification.from_pretrained(last)
    whole = folder("whole")
    assert finish(start(whole, "finite_difference"))[0] == 0
    code, errors = finish(start(path, "finite_difference"))
    assert code == 0, errors[-3000:]
    assert torch.equal(torch.load(whole / "weights.pt"), torch.load(path / "weights.pt"))
