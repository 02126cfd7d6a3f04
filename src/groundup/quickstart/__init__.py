"""From a text to a talking model in one command: survey, recipe, workflow."""
