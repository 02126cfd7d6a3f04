"""Where text comes from, and where its tokens are kept.

sources, reading    files, folders and standard input, as a stream of documents
pythondocs          the corpus that every Python brings along
shards              token ids on disk, and their manifest
batches             which tokens stand in which training step
"""
