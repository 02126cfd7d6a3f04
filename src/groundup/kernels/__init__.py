"""Fused kernels as functions of tensors, each with the torch code that defines it; no models and no configs."""
