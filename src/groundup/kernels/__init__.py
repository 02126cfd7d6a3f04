"""Arithmetic that is worth writing by hand, as functions of tensors: they know neither models nor configs."""
