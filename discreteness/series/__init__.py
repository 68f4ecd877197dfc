"""Series of checkpoints that others have trained: names and files of models -> checkpoints, one after another."""
