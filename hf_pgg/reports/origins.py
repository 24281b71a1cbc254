"""Where a run's parts come from: repositories on the Hub, and the settings of a synthesis."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_id(name: str | None) -> str | None:
    """Returns the name if it can be that of a repository on the Hub, and is no file or folder here; else None.

    Example:
        >>> hub_id("some/model"), hub_id("digits on photographs")
        ('some/model', None)
    """
    if name is None or Path(name).exists() or Path(name).is_absolute():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def hub_source(dataset: Any) -> tuple[str | None, str | None]:
    """Returns repository and commit that a data set was loaded from, or two None.

    `load_dataset` keeps what came from the Hub in `NAMESPACE___NAME/CONFIG/VERSION/COMMIT/`, which holds offline too.

    Example:
        >>> hub_source(rows)  # made in memory
        (None, None)
    """
    for file in getattr(dataset, "cache_files", []):
        *_, repo, _, _, commit, _ = ("", "", "", "", *Path(file["filename"]).parts)
        if _COMMIT.fullmatch(commit):
            return repo.replace("___", "/"), commit
    return None, None


def synthesis_settings(method: Any) -> dict[str, Any]:
    """Lists a synthesis method's name, version and every setting; a pool of rows by its size and fingerprint.

    Example:
        >>> from hf_pgg import CutMix
        >>> settings = synthesis_settings(CutMix(source=rows, seed=3))
        >>> settings["method"], settings["seed"]
        ('CutMix', 3)
    """
    settings: dict[str, Any] = {"method": type(method).__name__}
    for field in fields(method):
        value = getattr(method, field.name)
        if field.name.startswith("_") or value is None:
            continue
        if isinstance(value, Dataset):
            value = f"{len(value)} rows (fingerprint {value._fingerprint})"
        elif not isinstance(value, str | int | float | tuple | list):
            value = getattr(value, "__qualname__", type(value).__name__)
        settings[field.name] = json.loads(json.dumps(value))  # tuples as lists: as it will be read
    return settings
