"""Optimizers, learning-rate schedules, run lengths and the moving average of weights."""
