"""The network: GPT, attention, head, lookup, initial weights."""
