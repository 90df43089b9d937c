"""Beam pipelines: the stages as wiring, and the command line."""
