"""A small OTLP collector for a machine without one: spans into files, for `ringmesh trace`."""
