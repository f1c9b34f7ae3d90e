"""How an asking member scores its advisers: the critic, trust and agent-value terms of peer learning."""
