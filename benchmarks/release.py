"""Trains the small checkpoints of the README and packages them as folders that are ready for the Hub.

    python -m benchmarks.release --output_dir checkpoints

runs the recipes' default comparisons (classification, localization, clips; embedded data, seed 0) and keeps the guided
checkpoint of each, and the plain one that the demo page sets beside it: safetensors, config, preprocessor, model card,
run record and the card's images. Each folder is checked: it loads, holds no pickle, and is under 20 MB. A comparison
that has been run already (`--work_dir`) is not run again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import ModelCard
from transformers import AutoModelForImageClassification, AutoModelForVideoClassification

from hf_pgg.cli.options import parse_options, run_recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
OPTIONS = ("--disable_tqdm", "True", "--license", "apache-2.0")  # the project's own
LIMIT = 20_000_000  # bytes of a folder
PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


@dataclass(frozen=True)
class Release:
    """One comparison, its further options, and what is kept of it: method's folder -> released name."""

    script: str
    kept: dict[str, str]
    model_class: type
    options: tuple[str, ...] = ()


RELEASES = (
    Release(
        "train_cls.py",
        {"plain": "digits-convnext-plain", "guided": "digits-convnext-guided"},
        AutoModelForImageClassification,
    ),
    Release(
        "train_wsol.py",
        {"cutmix-guidance": "digits-localization-guided"},
        AutoModelForImageClassification,
    ),
    Release(
        "train_stal.py",
        {"actor": "clips-videomae-plain", "actor-guidance": "clips-videomae-guided"},
        AutoModelForVideoClassification,
        ("--joined",),
    ),
)


@dataclass
class ReleaseArguments:
    output_dir: str = field(default="checkpoints", metadata={"help": "Where the packaged folders go."})
    work_dir: str = field(default="out/release", metadata={"help": "Where the recipes train."})


def package(source: Path, target: Path, model_class: type) -> int:
    """Copies a checkpoint's folder (files only, no training state) and checks it; returns its size in bytes.

    Raises:
        ValueError: If a file is pickled, the folder is too large, or its card's metadata is not valid.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.name != "training_args.bin":
            if file.suffix in PICKLED:
                raise ValueError(f"{file} is pickled: a released checkpoint holds safetensors only")
            shutil.copyfile(file, target / file.name)
    size = sum(file.stat().st_size for file in target.iterdir())
    if size > LIMIT:
        raise ValueError(f"{target} has {size / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f}")
    metadata = ModelCard.load(target / "README.md").data
    if metadata.library_name != "transformers" or not metadata.pipeline_tag:
        raise ValueError(f"{target}/README.md names no library or pipeline: it is not the run's own card")
    model_class.from_pretrained(target, use_safetensors=True)  # type: ignore[attr-defined]
    return size


def main() -> None:
    (arguments,) = parse_options({"options": ReleaseArguments}, description=__doc__)
    work = Path(arguments.work_dir)
    for release in RELEASES:
        folder = work / Path(release.script).stem
        if not (folder / "results.json").exists():  # written last
            command = [sys.executable, RECIPES / release.script, "--compare", "--output_dir", folder, *OPTIONS]
            subprocess.run([*map(str, command), *release.options], check=True)
        for method, name in release.kept.items():
            size = package(folder / method, Path(arguments.output_dir) / name, release.model_class)
            print(f"{arguments.output_dir}/{name}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_recipe(main)
