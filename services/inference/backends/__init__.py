"""Backends: what runs a tensor model inside a node, one file each."""
