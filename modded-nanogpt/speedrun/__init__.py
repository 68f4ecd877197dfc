"""A track and a seed -> weights, step by step: the modded-nanogpt speedrun as a library."""
