"""Graphs of any signature as models: what they take, how their rows are batched, what they give."""
