"""How the arrays of an exchange reach the members of other participants of a federation."""
