"""Weights on their way from a trainer to an evaluator or a file: layout, staging, loading."""
