"""Comparisons over models and hyperparameters, all with one irreducible-loss table."""
