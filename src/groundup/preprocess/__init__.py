"""Preparation of training data: documents and a tokenizer in, a folder of token shards out."""
