"""Envoy's API as data: the messages of xDS from one committed descriptor set."""
