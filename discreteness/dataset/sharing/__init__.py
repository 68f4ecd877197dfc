"""Datasets between people: several made one, and one made public."""
