"""Output for people: live panel, plain lines, charts, progress bars, notebooks, and the formats of numbers and text."""
