import pytest

HYDROGEN = """
&FORCE_EVAL
  &DFT
    BASIS_SET_FILE_NAME BASIS_MOLOPT
    POTENTIAL_FILE_NAME GTH_POTENTIALS
    &MGRID
      CUTOFF 280
      REL_CUTOFF 50
    &END
    &QS
      EPS_DEFAULT 1E-12
    &END
    &SCF
      EPS_SCF 1E-8
      MAX_SCF 40
      &OT
        MINIMIZER CG
        PRECONDITIONER FULL_ALL
      &END
    &END
    &XC
      &XC_FUNCTIONAL PBE
      &END
    &END
  &END
  &SUBSYS
    &KIND H
      BASIS_SET SZV-MOLOPT-SR-GTH
      POTENTIAL GTH-PBE-q1
    &END
  &END
&END
"""


@pytest.fixture(scope="session")
def hydrogen_input() -> str:
    """A cheap CP2K input for hydrogen, for all tests."""
    return HYDROGEN
