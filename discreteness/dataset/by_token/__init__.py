"""The same losses by token, so that questions about all seeds are fast."""
