"""Command lines, and nothing else: each parses, imports what it needs, and makes one call."""
