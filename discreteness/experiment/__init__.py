"""What is run, and its identity: configuration, plan, documents, and all that decides a loss."""
