"""Exact and approximate similarities: what they select, and what they take."""
