"""Process group and launch; activation checkpointing, compile, DDP, FSDP2, threads that share a micro-batch."""
