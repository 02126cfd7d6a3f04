"""Faster ways to compute what torch computes too: compiled at first use, or left to torch where that cannot be."""
