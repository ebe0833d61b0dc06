"""External programs: run with limits, ended as a whole, and why they ended."""
