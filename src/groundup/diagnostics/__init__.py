"""What is well and what is not, on this machine, in runs, in prepared data; each with its remedy."""
