"""Optimizers: NorMuon, Adam, orthogonalisation, and what ranks share."""
