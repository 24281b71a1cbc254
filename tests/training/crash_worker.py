"""A short guided run with checkpoints, resumed from the last one if there is one; `test_crashes.py` kills it.

    python -m tests.crash_worker FOLDER MODE [BYTES]

`BYTES` limits the size of a file after step 5, as a full disk would.
"""

import resource
import signal
import sys
from pathlib import Path

import torch
from datasets import load_from_disk
from transformers import TrainerCallback, ViTImageProcessor
from transformers.trainer_utils import get_last_checkpoint

from hf_pgg import CutMix, FreshDraws, PGGCollator, PGGConfig, PGGTrainer
from tests.conftest import SIZE, tiny_model

STEPS = 16


class FullDisk(TrainerCallback):
    """No file may grow beyond some bytes after step 5."""

    def __init__(self, size: int):
        self.size = size

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


class SteppingAloud(TrainerCallback):
    """Says that a step begins, so that a kill can be timed by steps: a busy machine is slow, and not evenly."""

    def on_step_begin(self, args, state, control, **kwargs):
        print(f"step {state.global_step + 1}", flush=True)


def main() -> None:
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    rows = load_from_disk(str(folder / "rows"))
    out = folder / "out"
    args = PGGConfig(
        output_dir=str(out),
        guidance_mode=mode,
        guidance_fraction=0.5,
        alpha=0.5,
        max_steps=STEPS,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=3,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    synthesis = FreshDraws(CutMix(source=rows.remove_columns(["row_id"]), row_id_column="row_id", seed=4))
    collator = PGGCollator(ViTImageProcessor(size={"height": SIZE, "width": SIZE}), synthesis=synthesis)
    trainer = PGGTrainer(tiny_model("vit"), args, train_dataset=rows, data_collator=collator)
    trainer.add_callback(SteppingAloud())
    if len(sys.argv) > 3:
        trainer.add_callback(FullDisk(int(sys.argv[3])))
    print("ready", flush=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(out)) if out.exists() else None)
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    torch.save(weights, folder / "weights.pt")


if __name__ == "__main__":
    main()
