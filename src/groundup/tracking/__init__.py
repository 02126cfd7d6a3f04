"""Experiment trackers in addition to the run's own log.jsonl: wandb, trackio, tensorboard."""
