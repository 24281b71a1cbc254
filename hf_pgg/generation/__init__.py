"""Generated training data, on diffusers (`pip install hf-pgg[generation]`, imported when a pipeline is loaded).

Real-Fake: `training` and `distribution_matching` fine-tune a generator, `conditioning` and `sampling` draw images from
it; `pixels` holds small ones, trained from scratch. ALIA: `edits` edits images and keeps their provenance, `filtering`
drops failed and useless edits. All write through `resumable`: one image for each (row, version), also if interrupted.
"""
