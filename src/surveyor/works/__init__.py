"""The life cycle that all kinds of work share: parameters, checks, lease, record of the run, pools, summary."""
