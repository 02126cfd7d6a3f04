"""Checkpoints, and the folders and logs of runs."""
