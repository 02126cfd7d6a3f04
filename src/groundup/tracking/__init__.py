"""A run shown elsewhere besides its own log.jsonl: wandb, trackio, tensorboard. None of them can stop or slow it."""
