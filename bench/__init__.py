"""Figures, never pass or fail: what the mesh costs, and what a node does beside its peers."""
