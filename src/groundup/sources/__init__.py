"""Text sources: files, archives, parquet, the Hugging Face Hub, a catalog of corpora; cleaning."""
