"""Evaluation: how good members are by themselves."""
