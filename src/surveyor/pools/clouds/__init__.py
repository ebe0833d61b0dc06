"""Machines in clouds: what pools of all kinds of them have in common."""
