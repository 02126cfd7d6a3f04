"""Text from a model: how the next token is chosen, and how tokens become a stream of characters."""
