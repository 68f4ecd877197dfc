"""Token shards from text, and what is in them."""
