"""Priors: networks that predict image tokens."""
