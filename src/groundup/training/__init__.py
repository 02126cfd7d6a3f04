"""Training: the loop, and the parts it is handed."""
