"""Checkpoints that are complete or not there, and that load under the names they were saved with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints
from transformers.utils import SAFE_WEIGHTS_NAME

_STAGING = "_unfinished"  # a push passes over what begins with an underscore


def staging_folder(folder: str | Path) -> Path:
    """Returns where a checkpoint is written before it is complete; no search for checkpoints finds it.

    Example:
        >>> str(staging_folder("out"))
        'out/_unfinished'
    """
    return Path(folder) / _STAGING


def _published_path(checkpoint: str | None, folder: str | Path) -> str | None:
    """Where a checkpoint of the staging folder lies once it is published; any other stays as it is."""
    if checkpoint is None or Path(checkpoint).parent != staging_folder(folder):
        return checkpoint
    return str(Path(folder) / Path(checkpoint).name)


def _publish(folder: str, state: Any, save_total_limit: int | None) -> str:
    """Moves the one checkpoint in the staging folder to its place by one `rename`, rotates, and returns its path."""
    staging = staging_folder(folder)
    (written,) = staging.iterdir()
    final = Path(folder) / written.name
    best = _published_path(state.best_model_checkpoint, folder)
    if best != state.best_model_checkpoint:
        state.best_model_checkpoint = best
        state.save_to_json(str(written / TRAINER_STATE_NAME))
    if final.exists():  # a resumed run that passes the same step again
        final.rename(staging / "replaced")
    written.rename(final)
    shutil.rmtree(staging)
    rotate_checkpoints(
        output_dir=folder,
        save_total_limit=save_total_limit,
        best_model_checkpoint=state.best_model_checkpoint,
        use_mtime=True,
    )
    return str(final)


class AtomicCheckpoints(Trainer):
    """A `Trainer` whose checkpoints are complete or not there: a crash or a full disk leaves no half checkpoint.

    They load under the names that they were saved with, also where a model's modules have other names.

    Example:
        >>> import copy, tempfile
        >>> from transformers import TrainingArguments
        >>> options = {"max_steps": 1, "save_steps": 1, "report_to": [], "use_cpu": True, "disable_tqdm": True}
        >>> args = TrainingArguments(tempfile.mkdtemp(), **options)
        >>> row = {"pixel_values": torch.ones(3, 16, 16), "labels": 0}
        >>> result = AtomicCheckpoints(copy.deepcopy(model), args, train_dataset=[row]).train()
        {'train_runtime': ...}
        >>> [folder.name for folder in Path(args.output_dir).iterdir()]
        ['checkpoint-1']
    """

    staging = False  # while a checkpoint is being written

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(staging_folder(folder)) if self.staging else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = self._get_output_dir(trial)
        if self.args.should_save:
            shutil.rmtree(staging_folder(folder), ignore_errors=True)  # of an earlier crash
        self.accelerator.wait_for_everyone()
        self.staging = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.staging = False
        self.accelerator.wait_for_everyone()  # every process has written its random state
        if self.args.should_save:
            checkpoint = _publish(folder, self.state, self.args.save_total_limit)
            if self.args.push_to_hub:
                self._push_from_checkpoint(checkpoint)
        self.accelerator.wait_for_everyone()
        # the other processes, too, load the best one in the end
        self.state.best_model_checkpoint = _published_path(self.state.best_model_checkpoint, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        _load_renamed_weights(self.model if model is None else model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            _load_renamed_weights(self.model, self.state.best_model_checkpoint)


def _load_renamed_weights(model: Any, folder: str) -> None:
    """Loads a checkpoint whose weights are stored under other names than the modules have (ViT in transformers 5).

    `save_pretrained` writes the Hub's old names, which the stock Trainer's `load_state_dict(strict=False)` passes
    over: the resumed run would go on from the initial weights, with a warning only.
    """
    file = Path(folder) / SAFE_WEIGHTS_NAME
    if not isinstance(model, PreTrainedModel) or not file.is_file():
        return
    with safe_open(file, framework="pt") as stored:
        if set(stored.keys()) <= set(model.state_dict()):
            return
    model.load_state_dict(type(model).from_pretrained(folder).state_dict())
