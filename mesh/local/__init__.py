"""The whole mesh on one machine: tools, demo models, and the processes of `ringmesh up`."""
