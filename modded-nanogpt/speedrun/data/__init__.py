"""Tokens: shards, the sampler, the vocabulary, the batches; the tiny corpus and what it is made of."""
