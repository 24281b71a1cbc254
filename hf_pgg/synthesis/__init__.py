"""Synthesis methods that keep provenance: each a function of one row, in a file of its own, under `datasets.map`.

A new method is one new file and one line here.
"""

from hf_pgg.synthesis.actor_composite import ActorComposite as ActorComposite
from hf_pgg.synthesis.background_exchange import BackgroundExchange as BackgroundExchange
from hf_pgg.synthesis.base import FreshDraws as FreshDraws
from hf_pgg.synthesis.batchmix import BatchMix as BatchMix
from hf_pgg.synthesis.composite import Composite as Composite
from hf_pgg.synthesis.cutmix import CutMix as CutMix
from hf_pgg.synthesis.edit import Edit as Edit
from hf_pgg.synthesis.images import Synthesizer as Synthesizer
from hf_pgg.synthesis.mask_ablation import MaskAblation as MaskAblation
from hf_pgg.synthesis.puzzlemix import InputGradientSaliency as InputGradientSaliency
from hf_pgg.synthesis.puzzlemix import PuzzleMix as PuzzleMix
from hf_pgg.synthesis.resizemix import ResizeMix as ResizeMix
from hf_pgg.synthesis.tilemix import TileMix as TileMix
from hf_pgg.synthesis.videomix import VideoMix as VideoMix
