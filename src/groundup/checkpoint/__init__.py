"""Folders that answer every question about a run: where it stands, and everything needed to go on."""
