"""Figures and HTML pages from run folders."""
