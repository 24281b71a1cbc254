"""hf_pgg: keep the provenance of synthetic images, and train models that look at the target.

The names below are imported when they are first used: `import hf_pgg` alone loads none of torch, transformers and
datasets.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors read; `_HOMES` says the same to Python
    from hf_pgg.auditing.audit import AuditSettings as AuditSettings
    from hf_pgg.auditing.audit import audit as audit
    from hf_pgg.data.annotations import add_provenance as add_provenance
    from hf_pgg.data.collator import PGGCollator as PGGCollator
    from hf_pgg.data.provenance import ProvenanceError as ProvenanceError
    from hf_pgg.data.provenance import provenance_features as provenance_features
    from hf_pgg.synthesis import ActorComposite as ActorComposite
    from hf_pgg.synthesis import BackgroundExchange as BackgroundExchange
    from hf_pgg.synthesis import BatchMix as BatchMix
    from hf_pgg.synthesis import Composite as Composite
    from hf_pgg.synthesis import CutMix as CutMix
    from hf_pgg.synthesis import Edit as Edit
    from hf_pgg.synthesis import FreshDraws as FreshDraws
    from hf_pgg.synthesis import MaskAblation as MaskAblation
    from hf_pgg.synthesis import PuzzleMix as PuzzleMix
    from hf_pgg.synthesis import ResizeMix as ResizeMix
    from hf_pgg.synthesis import TileMix as TileMix
    from hf_pgg.synthesis import VideoMix as VideoMix
    from hf_pgg.training.config import PGGConfig as PGGConfig
    from hf_pgg.training.trainer import PGGTrainer as PGGTrainer

__version__ = "0.1.0"

_SYNTHESIS = [
    "ActorComposite",
    "BackgroundExchange",
    "BatchMix",
    "Composite",
    "CutMix",
    "Edit",
    "FreshDraws",
    "MaskAblation",
    "PuzzleMix",
    "ResizeMix",
    "TileMix",
    "VideoMix",
]
_HOMES = dict.fromkeys(_SYNTHESIS, "hf_pgg.synthesis") | {
    "AuditSettings": "hf_pgg.auditing.audit",
    "PGGCollator": "hf_pgg.data.collator",
    "PGGConfig": "hf_pgg.training.config",
    "PGGTrainer": "hf_pgg.training.trainer",
    "ProvenanceError": "hf_pgg.data.provenance",
    "add_provenance": "hf_pgg.data.annotations",
    "audit": "hf_pgg.auditing.audit",
    "provenance_features": "hf_pgg.data.provenance",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_pgg' has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_HOMES[name]), name)  # the next use finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
