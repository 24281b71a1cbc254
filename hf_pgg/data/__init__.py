"""Rows and batches: the provenance contract, readers of masks, boxes, images and clips, and the collator."""
