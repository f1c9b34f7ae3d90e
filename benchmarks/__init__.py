"""Measuring Peerage: speed (`bench`) against other libraries and against the machine."""
