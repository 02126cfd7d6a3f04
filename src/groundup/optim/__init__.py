"""How weights move: rules for groups of parameters, and the learning rate over a run."""
