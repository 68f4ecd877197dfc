"""The same losses in files of other tools."""
