"""Does what guidance teaches on some images hold on others? The question behind the localization table.

    python -m benchmarks.localization.transfer --data DATA

takes the classifier that the plan `headline` of `benchmarks.localization.run` trained with CutMix alone (seed 0), and
minimises the guidance loss by itself, in exact mode, on 32 training images: mixed ones with the mix's masks, or whole
ones with the masks of a saliency model. The target gradient share is measured on those images and on 64 others. Results
are added to `benchmarks/results/guidance_transfer.jsonl`, one line a seed (which images) and kind of mask; what stands
there is not run again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification

from benchmarks.localization import run as benchmark_wsol
from benchmarks.localization.plan import SIZES, Run
from benchmarks.tables import RESULTS
from hf_pgg import CutMix, PGGCollator
from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.data.loading import open_dataset
from hf_pgg.guidance.engines import exact_guidance, input_gradient
from hf_pgg.guidance.forms import share
from hf_pgg.guidance.modes import second_derivatives
from hf_pgg.reports.comparison import append_record, read_records
from hf_pgg.reports.record import environment

FITTED, OTHERS, BATCH, STEPS, EVERY = 32, 64, 16, 60, 10


@dataclass
class Arguments:
    data: str = field(metadata={"help": "Folder of the data sets and checkpoints."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Which images are taken."})
    learning_rate: float = field(default=3e-4, metadata={"help": "Of AdamW."})


def guided_rows(kind: str, root: str, seed: int) -> Dataset:
    """`FITTED + OTHERS` rows with provenance: `"mixes"` of CutMix, or whole images with `"automatic"` masks."""
    whole = open_dataset(f"{root}/oxford-pets-37", "train").select_columns(["image", "label"])
    chosen = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))[: FITTED + OTHERS].tolist()
    if kind == "automatic":
        return benchmark_wsol.with_automatic_masks(whole, root, whole[0]["image"].height).select(chosen)
    rows = whole.select(chosen)
    return CutMix(source=rows, seed=seed).map(rows)


def mean_share(model: Any, batches: list[dict[str, torch.Tensor]]) -> float:
    """The target gradient share of every label of every row."""
    shares = []
    for batch in batches:
        pixels = batch["pixel_values"].requires_grad_()
        logits = model(pixel_values=pixels).logits
        for k in range(batch["labels"].shape[1]):
            known = batch["labels"][:, k] >= 0
            gradient = input_gradient(logits, pixels, batch["labels"][:, k])
            outside = share(gradient, batch["provenance"][:, k].unsqueeze(-3), pixels.detach())
            shares.append((1 - outside)[known].detach())
    return torch.cat(shares).mean().item()


def fit(kind: str, seed: int, arguments: Arguments) -> list[dict[str, float]]:
    """Minimises the guidance loss; (step, share on the fitted images, share on the others) along the way."""
    folder = benchmark_wsol.kept(Run(synthesis="cutmix"))
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    collator = PGGCollator(AutoImageProcessor.from_pretrained(folder), image_size=SIZES["cnn"])
    rows = guided_rows(kind, arguments.data, seed)
    batches = [collator([rows[i] for i in range(s, s + BATCH)]) for s in range(0, len(rows), BATCH)]
    fitted, others = batches[: FITTED // BATCH], batches[FITTED // BATCH :]
    optimizer, curve = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate), []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            curve.append({"step": step, "fitted": mean_share(model, fitted), "others": mean_share(model, others)})
            print(kind, seed, curve[-1], flush=True)
        batch = fitted[step % len(fitted)]
        pixels = batch["pixel_values"].requires_grad_()
        with second_derivatives():
            logits = model(pixel_values=pixels).logits
            masks, guided = batch["provenance"], batch["guided"]
            loss = exact_guidance(logits, pixels, batch["labels"], masks, guided, share).value.mean()
            optimizer.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return curve


def main() -> None:
    (arguments,) = parse_options({"options": Arguments}, description=__doc__)
    torch.set_flush_denormal(True)
    results = RESULTS / "guidance_transfer.jsonl"
    done = {(record["kind"], record["seed"]) for record in read_records(results)}
    for seed in arguments.seeds:
        for kind in ("mixes", "automatic"):
            if (kind, seed) in done:
                continue
            record = {"kind": kind, "seed": seed, "curve": fit(kind, seed, arguments), "environment": environment()}
            append_record(results, record)


if __name__ == "__main__":
    run_recipe(main)
