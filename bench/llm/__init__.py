"""Language models on a CPU, beside their peers."""
