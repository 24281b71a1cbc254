"""`PGGTrainer` with parameters sharded by `fully_shard`; started by `test_sharded_trainer.py`.

python -m torch.distributed.run --nproc_per_node 2 -m tests.distributed.sharded_trainer OPTIONS.json
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from datasets import load_from_disk
from torch.distributed.fsdp import fully_shard
from transformers import ViTImageProcessor

from hf_pgg import PGGConfig
from tests.conftest import SIZE, tiny_model
from tests.distributed.sharded_worker import flat
from tests.distributed.worker import Collator, InOrder


def train(options: dict) -> None:
    """One run of three steps; all processes end with the same weights, which the first one saves."""
    model = tiny_model("convnext").double()
    args = PGGConfig(options["out"], use_cpu=True, ddp_backend="gloo" if "RANK" in os.environ else None, optim="sgd",
                     learning_rate=1e-3, max_grad_norm=0.0, num_train_epochs=1, logging_steps=1, save_strategy="no",
                     report_to=[], disable_tqdm=True, dataloader_pin_memory=False, alpha=1.0,
                     per_device_train_batch_size=options["batch"], guidance_labels=options["labels"])  # fmt: skip
    if "RANK" in os.environ:
        args.device  # noqa: B018 (joins the processes)
        fully_shard(model)
    collator = Collator(ViTImageProcessor(size={"height": SIZE, "width": SIZE}))
    rows = load_from_disk(options["rows"])
    trainer = InOrder(model, args, train_dataset=rows, eval_dataset=rows, data_collator=collator)
    trainer.is_distributed_loading_by_transformers = "RANK" in os.environ  # or Accelerate would wrap it again
    share = trainer.evaluate()["eval_target_gradient_share"]
    trainer.train()
    weights = flat(trainer.model)
    if trainer.is_world_process_zero():
        torch.save({"weights": weights, "share": share}, options["weights"])


def main() -> None:
    for options in json.loads(Path(sys.argv[1]).read_text()):
        train(options)
    if dist.is_initialized():
        dist.barrier()
        sys.stderr.flush()
        os._exit(0)  # see `worker.py`


if __name__ == "__main__":
    main()
