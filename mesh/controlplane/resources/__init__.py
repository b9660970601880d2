"""Envoy resources as plain data: clusters, endpoints, routes, listeners."""
