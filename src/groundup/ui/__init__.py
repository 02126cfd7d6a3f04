"""What a run looks like to a person: the live panel on a terminal, plain lines in a pipe."""
