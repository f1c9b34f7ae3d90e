"""Evaluation of the members of a group, alone or together with advice."""
