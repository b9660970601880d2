"""`ringmesh.node.v1.Node`: what its messages mean, and what a generation looks like outside."""
