"""Checks that find faults before a campaign begins, on this machine and on the workers of its pools."""
