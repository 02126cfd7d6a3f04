"""Before a run: what it would take, and, for a quickstart, what to choose and why."""
