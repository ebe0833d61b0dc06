"""Pools whose workers do not see the folder of the work: files travel through a bucket."""
