"""Losses on disk: what is written, how it is read, checked and watched. Knows no other wing."""
