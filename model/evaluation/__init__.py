"""Measuring what a prior generates."""
