"""Pools of instances of Google Compute Engine."""
