"""Pools of machines that are reached by ssh."""
