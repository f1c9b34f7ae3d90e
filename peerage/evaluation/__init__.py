"""Evaluation: what the members of a group earn without learning to act, alone or together."""
