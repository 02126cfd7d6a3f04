"""Hundreds of signals at random moments: `make torture`, or `python tests/torture --kills 200 --seed 1`.

Trains toy models of several configs, ends each at random moments between its start and its end, by SIGKILL or by a
signal that asks it to stop, and resumes it until it is finished. The last checkpoint, the best one, the links and the
log must equal an uninterrupted run's, bit for bit, and no signal may have destroyed a complete checkpoint. A few such
runs are part of `make test`.
"""

import os
import sys
from importlib import import_module

if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before any library starts threads: a fork copies only one
    os.environ["OMP_WAIT_POLICY"] = "passive"  # idle threads would take the cores from those that work
    sys.exit(import_module("chamber").main())
