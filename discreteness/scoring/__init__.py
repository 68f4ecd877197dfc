"""Weights and documents to losses."""
