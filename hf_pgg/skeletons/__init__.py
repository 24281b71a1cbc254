"""Skeletons: rows of keypoints, and a classifier of them."""
