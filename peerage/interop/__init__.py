"""Import and export of policies: checkpoints of runs and Stable-Baselines3 zips."""
