"""Rows of many callers, run together."""
