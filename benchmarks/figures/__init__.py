"""Figures of the README and of the documentation, from the released checkpoints."""
