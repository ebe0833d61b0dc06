"""Pools of pods of Kubernetes."""
