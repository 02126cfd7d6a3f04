"""Atomic files, locks, machine facts, hashing, devices: what every package needs."""
