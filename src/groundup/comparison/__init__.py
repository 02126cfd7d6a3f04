"""Comparison of several runs: losses at equal tokens, steps and time, results of tasks, config differences."""
