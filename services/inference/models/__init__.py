"""The versions that a node holds: what they are, their states, and how they come and go."""
