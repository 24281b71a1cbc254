"""Cases through `PGGTrainer`: what it refuses, the batches it evaluates, and the losses of its steps.

The model is linear, so that its input gradient is its weights, whatever the image: the loss of guidance follows from
the true masks alone, and so does that of the classification.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedModel, PrinterCallback
from transformers.modeling_outputs import ImageClassifierOutput

from hf_pgg import PGGConfig, PGGTrainer
from tests.invariants.fuzz import steps
from tests.invariants.fuzz.clips import FRAMES, boxed_clips, masked_clips, sampled
from tests.invariants.fuzz.oracle import SIDE, check_batch, squashed
from tests.invariants.fuzz.rows import CLASSES, Case, Truth, boxed_case, contract_case, masked_case
from tests.invariants.fuzz.verdicts import Fault, Finding, outcome, wrong


class LinearConfig(PretrainedConfig):
    model_type = "fuzzed_linear"


class Linear(PreTrainedModel):
    """Logits that are linear in the pixels of an image, or of all frames of a clip."""

    config_class = LinearConfig
    main_input_name = "pixel_values"

    def __init__(self, config: LinearConfig, frames: int = 1):
        super().__init__(config)
        self.head = torch.nn.Linear(frames * 3 * SIDE * SIDE, len(CLASSES))
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.head(pixel_values.flatten(1)))


def linear(frames: int) -> Linear:
    torch.manual_seed(0)
    config = LinearConfig(num_labels=len(CLASSES), id2label=dict(enumerate(CLASSES)))
    model = Linear(config, frames)
    torch.nn.init.normal_(model.head.weight, std=0.02)
    return model


def _frames(array: np.ndarray) -> np.ndarray:
    """A sample's frames in the model's input, (T, ...)."""
    frames = array if array.ndim == 4 or (array.ndim == 3 and array.shape[-1] != 3) else array[None]
    return np.stack([squashed(frame) for frame in frames])


def true_losses(truths: list[Truth], model: Linear) -> tuple[float, float, float]:
    """The classification loss, the loss of guidance (l2), and how far masks that are not exact may move the latter."""
    frames = len(truths[0].shown) if truths[0].shown.ndim == 4 else 1
    weight = model.head.weight.detach().double().reshape(len(CLASSES), frames, 3, SIDE, SIDE)
    entropies, guidance, slack = [], 0.0, 0.0
    for truth in truths:
        pixels = _frames(truth.shown).transpose(0, 3, 1, 2) / 127.5 - 1
        logits = (weight * torch.from_numpy(pixels)).flatten(1).sum(1) + model.head.bias.detach().double()
        log = torch.log_softmax(logits, 0)
        entropies.append(-sum(share * float(log[k]) for k, share in zip(truth.labels, truth.weights, strict=True)))
        for label in set(truth.labels):
            own = [j for j, name in enumerate(truth.labels) if name == label]
            masks = [truth.targets[j] if truth.targets is not None else None for j in own]
            if any(mask is None for mask in masks):
                continue
            planes = [mask if mask.ndim == 3 else mask[None] for mask in masks if mask is not None]
            inside = np.clip(sum(np.stack([squashed(frame) for frame in plane]) for plane in planes), 0, 1)
            energy = weight[label].square().sum(1).numpy()
            guidance += float(((1 - inside) ** 2 * energy).sum())
            slack += float(((1 - inside + truth.tolerance + 0.01).clip(0, 1) ** 2 * energy).sum())
            slack -= float(((1 - inside - truth.tolerance - 0.01).clip(0, 1) ** 2 * energy).sum())
    count = len(truths)
    return float(np.mean(entropies)), guidance / count, slack / count + 1e-4


def arguments(case: Case, folder: Path, count: int, alpha: float, **options: Any) -> PGGConfig:
    quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "eval_strategy": "no"}
    steps_options = {"max_steps": 2, "logging_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": count}
    clip = {"video_column": "video", "num_frames": FRAMES} if case.is_clip else {}
    label = {key: value for key, value in case.options.items() if key == "label_column"}
    form = {"guidance_form": "l2", "group_columns": list(case.groups), "per_device_eval_batch_size": count}
    return PGGConfig(str(folder), alpha=alpha, **{**quiet, **steps_options, **clip, **label, **form, **options})


def as_given(rng: np.random.Generator, rows: Dataset) -> Any:
    """The rows as a dataset, in a format that decodes, or as a stream."""
    kind = int(rng.integers(5))
    if kind == 4:
        return rows.to_iterable_dataset()
    return rows.with_format((None, "numpy", "torch", None)[kind])


def train(case: Case, known: Dataset, truths: list[Truth], rng: np.random.Generator, folder: Path) -> None:
    """Two steps at learning rate 0 over the whole dataset, and one evaluation."""
    guided = any(mask is not None for truth in truths for mask in truth.targets or ())
    alpha = 1.0 if guided or case.fault is not None else 0.0
    model = linear(FRAMES if case.is_clip else 1)
    args = arguments(case, folder, len(truths), alpha, guidance_mode=str(rng.choice(["exact", "finite_difference"])))
    options = {"train_dataset": as_given(rng, known), "eval_dataset": as_given(rng, known)}
    run = lambda: PGGTrainer(model, args, processing_class=steps.PROCESSOR, **options)  # noqa: E731
    fault = case.fault
    if fault is not None and "group" in fault.columns:  # a column of names or fractions is refused as a whole
        fault = Fault(fault.rows and None, fault.columns, fault.what)
    trainer = outcome(run, fault)
    if trainer is None:
        return
    trainer.remove_callback(PrinterCallback)
    if fault is not None:
        shuffled = Fault(fault.rows and frozenset(range(len(truths))), fault.columns, fault.what)
        if outcome(trainer.train, shuffled) is not None:
            raise wrong(f"{fault.what} (rows {sorted(fault.rows or ())}) is trained on")
        return
    (batch,) = list(trainer.get_eval_dataloader())
    check_batch(batch, truths, bool(case.groups))
    trainer.train()
    classification, guidance, slack = true_losses(truths, model)
    for entry in trainer.state.log_history[:2]:
        if abs(entry["classification_loss"] - classification) > 0.02:
            raise wrong(f"classification_loss {entry['classification_loss']:.4f}, {classification:.4f} is right")
        if alpha and abs(entry["guidance_loss"] - guidance) > slack + 0.02 * guidance:
            raise wrong(f"guidance_loss {entry['guidance_loss']:.4f}, {guidance:.4f} is right (within {slack:.4f})")


def check_training_case(rng: np.random.Generator, folder: Path) -> int:
    """Draws a case, trains on it as it is or mixed, and returns its number of rows."""
    draw = (masked_case, boxed_case, contract_case, masked_clips, boxed_clips)[rng.integers(5)]
    case = draw(rng, folder)
    try:
        known = steps.with_provenance(case)
        if known is None:
            return len(case.truths)
        truths = [sampled(truth, FRAMES) for truth in case.truths] if case.is_clip else case.truths
        train(case, known, truths, rng, folder / "run")
    except Finding as finding:
        finding.__notes__ = [case.name, "trainer"]
        raise
    return len(case.truths)
