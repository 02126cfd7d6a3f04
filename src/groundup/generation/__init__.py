"""Text generation: sampling, and decoding with a KV cache."""
