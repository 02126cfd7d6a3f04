"""Weights in and out of other programs."""
