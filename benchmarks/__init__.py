"""Benchmarks and experiments: speed, memory, checkpoints, crash tests, and the runs behind docs/results."""
