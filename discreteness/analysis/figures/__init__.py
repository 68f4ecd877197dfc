"""The pictures of an analysis, one file per figure."""
