"""Trains small models in float64 on rows in a fixed order and saves their weights; started by `test_processes.py`.

python -m torch.distributed.run --nproc_per_node 2 -m tests.distributed.worker OPTIONS.json
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from datasets import load_from_disk
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import ViTImageProcessor

from hf_pgg import PGGCollator, PGGConfig, PGGTrainer
from tests.conftest import SIZE, tiny_model


class Collator(PGGCollator):
    """Images in float64."""

    def __call__(self, rows):
        batch = super().__call__(rows)
        batch["pixel_values"] = batch["pixel_values"].double()
        return batch


class InOrder(PGGTrainer):
    """Rows as they lie in the dataset."""

    def _get_train_sampler(self, *args):
        return SequentialSampler(self.train_dataset)


def train(options: dict) -> None:
    """One run."""
    model = tiny_model(options.pop("family")).double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    rows = load_from_disk(options.pop("rows"))
    weights = options.pop("weights")
    keep_best = options.pop("keep_best", False)
    if keep_best:
        options |= {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    args = PGGConfig(
        use_cpu=True,
        ddp_backend="gloo" if "RANK" in os.environ else None,
        optim="sgd",
        learning_rate=1e-3,
        max_grad_norm=0.0,
        num_train_epochs=1,
        logging_steps=1,
        save_strategy="steps" if keep_best else "no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    collator = Collator(ViTImageProcessor(size={"height": SIZE, "width": SIZE}))
    trainer = InOrder(model, args, train_dataset=rows, eval_dataset=rows, data_collator=collator)
    trainer.train()
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    best = [trainer.state.best_model_checkpoint] * args.world_size
    if dist.is_initialized():
        dist.all_gather_object(best, trainer.state.best_model_checkpoint)
    if trainer.is_world_process_zero():
        flat = torch.cat([state[name].detach().flatten() for name in sorted(state)])
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        torch.save({"weights": flat, "losses": losses, "processes": args.world_size, "best": best}, weights)


def main() -> None:
    for options in json.loads(Path(sys.argv[1]).read_text()):
        train(options)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        sys.stderr.flush()
        os._exit(0)  # everything is written; the interpreter's own end now and then aborts on a thread of gloo's


if __name__ == "__main__":
    main()
