"""dataset -> a page on this machine that shows it, while it grows too."""

from discreteness.viewer.server import serve

__all__ = ["serve"]
