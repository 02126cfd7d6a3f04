"""One training run: compose and resolve its config, train, evaluate, log, checkpoint, resume."""
