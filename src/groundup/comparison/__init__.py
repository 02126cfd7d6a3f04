"""Several runs side by side: losses at equal tokens, steps and time, results of tasks, what their configs differ in."""
