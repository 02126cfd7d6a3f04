"""Hundreds of SIGKILLs at random moments: `make torture`, or `python tests/torture --kills 200 --seed 1`.

Trains several toy models, kills each at a random moment between its start and its end and resumes it until it is
finished. Then weights, optimizer state, EMA, metadata and everything logged must equal those of an uninterrupted run,
bit for bit, and no kill may have destroyed a complete checkpoint. Not part of `pytest tests`.
"""

import os
import sys
from importlib import import_module

if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before any library starts threads: a fork copies only one
    sys.exit(import_module("chamber").main())
