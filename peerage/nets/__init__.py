"""Stacked networks: the networks of all members of a group as one tensor program."""
