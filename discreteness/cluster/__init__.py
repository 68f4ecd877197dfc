"""What machines there are, what fits on them, what a run will take, and whether they are fit for it."""
