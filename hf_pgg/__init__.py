"""hf_pgg: keep the provenance of synthetic images, and train models that look at the target."""

from hf_pgg.data.annotations import add_provenance
from hf_pgg.data.collator import PGGCollator
from hf_pgg.data.provenance import ProvenanceError, provenance_features
from hf_pgg.synthesis import (
    ActorComposite,
    BackgroundExchange,
    BatchMix,
    Composite,
    CutMix,
    Edit,
    FreshDraws,
    MaskAblation,
    PuzzleMix,
    ResizeMix,
    TileMix,
    VideoMix,
)
from hf_pgg.training.config import PGGConfig
from hf_pgg.training.trainer import PGGTrainer

__version__ = "0.1.0"

__all__ = [
    "ActorComposite",
    "BackgroundExchange",
    "BatchMix",
    "Composite",
    "CutMix",
    "Edit",
    "FreshDraws",
    "MaskAblation",
    "PGGCollator",
    "PGGConfig",
    "PGGTrainer",
    "ProvenanceError",
    "PuzzleMix",
    "ResizeMix",
    "TileMix",
    "VideoMix",
    "add_provenance",
    "provenance_features",
]
