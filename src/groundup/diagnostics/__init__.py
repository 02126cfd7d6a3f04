"""Checks of machine, data, runs and jobs; tracing of steps; proof of exact resumes."""
