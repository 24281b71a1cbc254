"""Generated training data, on diffusers (`pip install hf-pgg[generation]`, imported when a pipeline is loaded).

Real-Fake: `training` and `distribution_matching` fine-tune a generator, `conditioning` and `sampling` draw images
from it. ALIA: `edits` edits images and keeps their provenance, `filtering` drops failed and useless edits. Both write
through `resumable`: one image for each (row, version), whatever interrupts it.
"""

from hf_pgg.generation.conditioning import Conditioner
from hf_pgg.generation.contact_sheet import contact_sheet, write_class_sheets, write_contact_sheets
from hf_pgg.generation.distribution_matching import (
    GeneratorLoss,
    Noised,
    add_noise,
    distribution_matching_loss,
    min_snr_weights,
)
from hf_pgg.generation.edits import EditGeneration, ImageEditor, InpaintingEditor, InstructionEditor
from hf_pgg.generation.filtering import class_thresholds, classify, clip_agrees, judge_confidence, keep_per_source
from hf_pgg.generation.pipelines import load_lora, load_pipeline, revision_of
from hf_pgg.generation.pixels import MaskedGeneration, PixelSampler, PixelSpace
from hf_pgg.generation.prompts import Prompts, read_prompts
from hf_pgg.generation.resumable import Generation, Report, source_digest
from hf_pgg.generation.sampling import PairedSampler, Request, Sampler, TextSampler
from hf_pgg.generation.store import PartStore
from hf_pgg.generation.subgroups import under_every_value
from hf_pgg.generation.training import (
    GeneratorConfig,
    GeneratorTrainer,
    LatentEncoder,
    PromptedImages,
    add_lora,
)

__all__ = [
    "Conditioner",
    "EditGeneration",
    "Generation",
    "GeneratorConfig",
    "GeneratorLoss",
    "GeneratorTrainer",
    "ImageEditor",
    "InpaintingEditor",
    "InstructionEditor",
    "LatentEncoder",
    "MaskedGeneration",
    "Noised",
    "PairedSampler",
    "PartStore",
    "PixelSampler",
    "PixelSpace",
    "PromptedImages",
    "Prompts",
    "Report",
    "Request",
    "Sampler",
    "TextSampler",
    "add_lora",
    "add_noise",
    "class_thresholds",
    "classify",
    "clip_agrees",
    "contact_sheet",
    "distribution_matching_loss",
    "judge_confidence",
    "keep_per_source",
    "load_lora",
    "load_pipeline",
    "min_snr_weights",
    "read_prompts",
    "revision_of",
    "source_digest",
    "under_every_value",
    "write_class_sheets",
    "write_contact_sheets",
]
