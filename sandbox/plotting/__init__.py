"""Figures from stored results: a style and one module a kind of plot."""
