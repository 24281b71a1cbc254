"""Synthesis methods that keep provenance: each a pure function on arrays under a `datasets.map` transform."""

from hf_pgg.synthesis.actor_composite import ActorComposite
from hf_pgg.synthesis.background_exchange import BackgroundExchange
from hf_pgg.synthesis.base import FreshDraws, Synthesizer
from hf_pgg.synthesis.batchmix import BatchMix
from hf_pgg.synthesis.composite import Composite
from hf_pgg.synthesis.cutmix import CutMix
from hf_pgg.synthesis.edit import Edit
from hf_pgg.synthesis.mask_ablation import MaskAblation
from hf_pgg.synthesis.puzzlemix import InputGradientSaliency, PuzzleMix
from hf_pgg.synthesis.resizemix import ResizeMix
from hf_pgg.synthesis.tilemix import TileMix
from hf_pgg.synthesis.videomix import VideoMix

__all__ = [
    "ActorComposite",
    "BackgroundExchange",
    "BatchMix",
    "Composite",
    "CutMix",
    "Edit",
    "FreshDraws",
    "InputGradientSaliency",
    "MaskAblation",
    "PuzzleMix",
    "ResizeMix",
    "Synthesizer",
    "TileMix",
    "VideoMix",
]
