"""Learning of a campaign: parameters, decisions, and the consequences of a generation's samples."""
