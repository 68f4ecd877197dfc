"""Losses from a training loop that is not ours."""
