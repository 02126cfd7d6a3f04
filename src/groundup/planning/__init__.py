"""Plan of a run before it starts: memory, time, disk, the rules behind `auto`, and the preset that suits a text."""
