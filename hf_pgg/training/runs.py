"""A run and its folder: one run at a time, checkpoints that know their run, and disks that are full."""

from __future__ import annotations

import errno
import json
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from hf_pgg.training.processes import all_agree

logger = logging.get_logger(__name__)

_LOCK = "_running.lock"  # a push passes over what begins with an underscore
_FULL = re.compile(r"os error (28|27|122)\b|No space left|File too large|quota exceeded|PytorchStreamWriter failed")
_FULL_CODES = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class RunName(TrainerCallback, ExportableState):
    """Names a run in the state of its checkpoints, so that no other run in the same folder deletes them.

    Example:
        >>> callback = RunName()
        >>> callback.begin(Path("no/such/folder"), None, saves=True)
        >>> list(callback.state()["attributes"])
        ['name']
    """

    def __init__(self, name: str | None = None):
        self.name = name

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"args": {}, "attributes": {"name": self.name}}

    def begin(self, folder: Path, checkpoint: str | None, saves: bool) -> None:
        """Takes the name of the checkpoint that is resumed, or goes on with its own, or draws a new one."""
        if checkpoint is not None:
            self.name = run_of(Path(checkpoint))
        elif self.name is None:
            self.name = uuid.uuid4().hex
            others = sorted(path.name for path in folder.glob("checkpoint-*")) if saves and folder.is_dir() else []
            if others:
                logger.warning(
                    f"{folder} holds {', '.join(others)} of another run: they stay, and this run begins anew beside"
                    " them (go on from the last one with `resume_from_checkpoint=True`, or give another `output_dir`)"
                )


def run_of(checkpoint: Path) -> str | None:
    """Returns the name of the run that wrote a checkpoint; None for those without one.

    Example:
        >>> run_of(Path("no/such/checkpoint")) is None
        True
    """
    file = checkpoint / TRAINER_STATE_NAME
    known = json.loads(file.read_text()).get("stateful_callbacks", {}) if file.is_file() else {}
    return known.get("RunName", {}).get("attributes", {}).get("name")


@contextmanager
def alone_in(folder: Path, accelerator: Any, writes: bool) -> Iterator[None]:
    """Keeps other runs that save there out of a folder inside a `with` block.

    Args:
        accelerator (`Accelerator`): Joins the processes, which are all refused together.
        writes (`bool`): Whether this process saves there.

    Raises:
        RuntimeError: If another run is in it.

    Example:
        >>> from accelerate import Accelerator
        >>> from tempfile import mkdtemp
        >>> with alone_in(Path(mkdtemp()), Accelerator(cpu=True), writes=True):
        ...     pass
    """
    lock, free, path = None, True, folder / _LOCK
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            free = False
        except OSError as error:
            logger.warning(f"{path} cannot be locked ({error}): make sure that no other run saves in {folder}")
    try:
        if not all_agree(accelerator, free):
            raise RuntimeError(
                f"another run is training in {folder} (it holds {path} on {socket.gethostname()} or a machine that"
                " shares the folder): give each run its own `output_dir`, or wait for its end"
            )
        yield
    finally:
        if lock is not None and lock.is_locked:
            path.unlink(missing_ok=True)
            lock.release()


def tell_processes(checkpoint: str, processes: int) -> None:
    """Warns if a checkpoint was written by another number of processes: its run is then not continued exactly.

    Example:
        >>> tell_processes("no/such/checkpoint", 1)
    """
    folder = Path(checkpoint)
    before = len(list(folder.glob("rng_state_*.pth"))) or int((folder / "rng_state.pth").is_file())
    if before not in (0, processes):
        logger.warning(
            f"{checkpoint} was written by {before} process{'es' * (before > 1)}, and this run has {processes}: batches"
            " and random draws differ from here on, so that it does not end where an uninterrupted run would"
        )


@contextmanager
def saying_that_a_disk_is_full(folder: str | Path, staged: Path | None = None) -> Iterator[None]:
    """Makes the errors of writing to a full disk one that says so, after deleting what was written of a checkpoint.

    Args:
        folder: The folder whose disk it is.
        staged (`Path`, *optional*): Where a checkpoint is written before it is complete; it is deleted.

    Raises:
        OSError: "disk full", with the folder, the bytes written and the bytes that are free.

    Example:
        >>> with saying_that_a_disk_is_full("no/such/folder", Path("no/such/folder/_unfinished")):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        OSError: [Errno 28] disk full: writing to no/such/folder failed with 0 bytes there, and ...
    """
    try:
        yield
    except Exception as error:
        if not (getattr(error, "errno", None) in _FULL_CODES or _FULL.search(str(error))):
            raise
        partial = Path(folder) if staged is None else staged
        written = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)
        left = "is incomplete" if staged is None else "is deleted, earlier checkpoints are whole"
        there = next(path for path in (Path(folder).absolute(), *Path(folder).absolute().parents) if path.exists())
        raise OSError(
            errno.ENOSPC,
            f"disk full: writing to {folder} failed with {written:,} bytes there, and"
            f" {shutil.disk_usage(there).free:,} bytes are free; what was written {left}: free space, and go on with"
            " `resume_from_checkpoint=True`, or save again",
        ) from error
