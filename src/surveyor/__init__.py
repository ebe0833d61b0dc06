"""Machine-learned interatomic potentials by online learning.

This package is the domain: it imports neither Prefect nor torch. The tasks and flows that orchestrate it are in
`surveyor.tasks` and `surveyor.flows`.
"""

import logging

__version__ = "0.1.0"

# Prefect relays the records of a package from the package's own level on: without one, nothing below WARNING is shown.
logging.getLogger(__name__).setLevel(logging.INFO)
