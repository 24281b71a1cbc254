"""Experiments: what was run (`plan`), how (`run`), and the tables of the stored results (`table`)."""
