"""The README's figure: the same digit on ten photographs, before a plain and a guided checkpoint.

    python -m benchmarks.figures.story

pastes every test digit on all ten photographs, at the same place and size, and asks both released checkpoints what it
is. The figure shows the first test digit of each class; `story.json` holds the counts over all 360 test digits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from datasets import Dataset
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_pgg import Composite, PGGCollator
from hf_pgg.data.images import to_rgb
from hf_pgg.demo_data import PHOTOGRAPHS, digits, photographs
from hf_pgg.reports.record import environment

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
CHECKPOINTS = {"plain": "digits-convnext-plain", "guided": "digits-convnext-guided"}
SIZE, SEED = 48, 0
RIGHT, WRONG = "#009e73", "#d55e00"  # told apart by colour-blind readers too


def digits_on_each_photograph(cutouts: Dataset) -> list[Dataset]:
    """For each photograph, all digits in the middle of a random crop of it, three quarters of the image long."""
    pool = photographs()
    photo = np.asarray(pool["label"])
    return [
        Composite(
            backgrounds=pool.select(np.flatnonzero(photo == number)),
            mask_column="mask",
            size=SIZE,
            scale=(0.75, 0.75),
            placement="center",
            flip=0.0,
            feather=0.5,
            seed=SEED,
        ).map(cutouts)
        for number in range(len(PHOTOGRAPHS))
    ]


def answers(folder: Path, images: list[Dataset]) -> np.ndarray:
    """(digits, photographs) int64: what a checkpoint says of each image."""
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    collator = PGGCollator(AutoImageProcessor.from_pretrained(folder))
    with torch.inference_mode():
        said = [model(pixel_values=collator(list(rows))["pixel_values"]).logits.argmax(1) for rows in images]
    return torch.stack(said, 1).numpy()


def summary(said: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How often answers (digits, photographs) are right, and how far they hold while the photograph changes."""
    right = said == labels[:, None]
    own = said[np.arange(len(labels)), labels]  # photograph c is the one that class c stands on in training
    others = (said == own[:, None]).sum(1) - 1
    return {
        "right_of_ten": float(right.sum(1).mean()),
        "right_on_own_photograph": float(right[np.arange(len(labels)), labels].mean()),
        "right_on_all_ten": float(right.all(1).mean()),
        "same_answer_on_the_nine_others": float(others.mean()),
    }


def story_table(path: Path = RESULTS / "story.json") -> str:
    """The table of the documentation, from the stored results."""
    record = json.loads(path.read_text())
    lines = [
        "| model | photographs of ten on which the answer is right | digits that are right on all ten"
        " | right on the digit's usual photograph | others of nine that leave that answer as it is |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, values in record["models"].items():
        lines.append(
            f"| {name} | {values['right_of_ten']:.1f} | {values['right_on_all_ten']:.0%}"
            f" | {values['right_on_own_photograph']:.0%} | {values['same_answer_on_the_nine_others']:.1f} |"
        )
    return "\n".join(lines)


def drawing(images: list[Dataset], shown: np.ndarray, said: dict[str, np.ndarray], labels: np.ndarray) -> Figure:
    """Two panels, one a model: a row for each digit shown, a column for each photograph, framed by the answer."""
    figure, panels = plt.subplots(1, len(said), figsize=(11, 5.35), dpi=110)
    gap, step = 6, SIZE + 6
    canvas = np.full((gap + step * len(shown), gap + step * len(images), 3), 255, np.uint8)
    for row, digit in enumerate(shown):
        for column, rows in enumerate(images):
            top, left = gap + step * row, gap + step * column
            canvas[top : top + SIZE, left : left + SIZE] = to_rgb(rows[int(digit)]["image"])
    for axes, (name, answer) in zip(panels, said.items(), strict=True):
        axes.imshow(canvas, interpolation="nearest")
        axes.axis("off")
        right = answer[shown] == labels[shown, None]
        for (row, column), correct in np.ndenumerate(right):
            corner = (gap + step * column - 2.5, gap + step * row - 2.5)
            colour = RIGHT if correct else WRONG
            axes.add_patch(Rectangle(corner, SIZE + 4, SIZE + 4, fill=False, color=colour, linewidth=2.2))
        for row, count in enumerate(right.sum(1)):
            axes.text(canvas.shape[1] + 8, gap + step * row + SIZE / 2, str(count), va="center", fontsize=11)
        axes.set_title(f"{name}: right on {right.sum()} of {right.size}", fontsize=13)
    figure.subplots_adjust(0.005, 0.01, 0.975, 0.93, wspace=0.09)
    return figure


def main() -> None:
    cutouts = digits("test")
    labels = np.asarray(cutouts["label"])
    images = digits_on_each_photograph(cutouts)
    said = {name: answers(ROOT / "checkpoints" / folder, images) for name, folder in CHECKPOINTS.items()}
    shown = np.array([np.flatnonzero(labels == label)[0] for label in range(len(PHOTOGRAPHS))])
    record: dict[str, Any] = {
        "digits": len(labels),
        "photographs": list(PHOTOGRAPHS),
        "seed": SEED,
        "checkpoints": CHECKPOINTS,
        "models": {name: summary(answer, labels) for name, answer in said.items()},
        "shown": {
            "digits": shown.tolist(),
            **{name: int((answer[shown] == labels[shown, None]).sum()) for name, answer in said.items()},
        },
        "environment": environment(),
    }
    (RESULTS / "story.json").write_text(json.dumps(record, indent=2) + "\n")
    drawing(images, shown, said, labels).savefig(RESULTS / "story.png")
    print(story_table())


if __name__ == "__main__":
    main()
