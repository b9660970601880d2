"""One step of the history per file."""
