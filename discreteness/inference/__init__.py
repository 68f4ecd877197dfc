"""Using a trained model: load it, score, generate, validate."""
