"""Counter-based random numbers: a hash of what they are for, without any state."""

import numpy as np
from numpy.typing import NDArray


def mix64(*numbers: int | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash integers (or arrays of them, elementwise) to 64 bits: splitmix64 (Steele, Lea & Flood 2014), chained."""
    state = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        for number in numbers:
            state = state + np.asarray(number).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state
