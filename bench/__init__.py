"""Side-by-side benchmarks, run from a checkout: `python -m bench`. See README.md in this folder."""
