"""Evaluation of models: loss, multiple-choice tasks, baselines and memorization."""
