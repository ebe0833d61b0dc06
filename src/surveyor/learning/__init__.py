"""Learning of a campaign: parameters, decisions, and what follows from the samples of a generation."""
