"""Files that others could have made: `make hostile`, or `python tests/hostile 'NAME OF A CASE'` to repeat one.

Each case changes one file of a valid input (a checkpoint, a run, prepared data, a tokenizer, a model of another
program, a text) and runs one command on it, in a fork with bounded memory and time. The command must succeed or say in
one line what is wrong; laws.py states all that must hold. A sample of the cases is part of `make test`.
"""

import os
import sys
from importlib import import_module

if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before any library starts threads: a fork copies only one
    os.environ["GROUNDUP_KERNELS"] = "torch"
    sys.exit(import_module("corpus").main())
