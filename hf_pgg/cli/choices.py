"""What the commands let a user choose from, known to `--help` without importing the library.

A test holds these lists equal to the library's own.
"""

MAPS = ("cam", "grad_cam", "guided_grad_cam", "input_gradient", "smooth_gradient", "attention_rollout")
SYNTHESES = ("composite", "exchange", "cutmix", "resizemix", "none")
MOST_IMAGES = 24  # on one sheet
