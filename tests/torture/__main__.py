"""Hundreds of SIGKILLs at moments of chance: `make torture`, or `python tests/torture --kills 200 --seed 1`.

Trains toy models of several kinds, kills each at a moment of chance between its first breath and its last, resumes it,
and so on until it is finished; then weights, moments, averages, books and everything logged must be those of a run that
nobody touched, bit for bit, and no kill may ever have cost a whole checkpoint. No part of `pytest tests`.
"""

import os
import sys
from importlib import import_module

if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before anything starts threads: a fork copies one
    sys.exit(import_module("chamber").main())
