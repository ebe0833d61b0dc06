"""Pools of instances of Amazon EC2."""
