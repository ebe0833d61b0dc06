"""Machines in clouds: the common parts of all pools that use them."""
