"""Policies of other libraries and of finished runs: Stable-Baselines3 zips and checkpoints."""
