"""What a GPT is: parts, blocks, and the context that attention asks."""
