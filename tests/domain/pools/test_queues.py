import signal

import pytest

from surveyor.pools.queues import (
    QUEUES,
    Entry,
    read_htcondor,
    read_lsf,
    read_oar,
    read_pbs,
    read_sge,
    read_slurm,
)
from surveyor.pools.sites import JOB_QUEUES

PENDING, RUNNING = "pending", "running"

PBS = """
Job id            Name             User              Time Use S Queue
----------------  ---------------- ----------------  -------- - -----
11.server         pool-1           ada               00:00:01 R workq
12.server         pool-2           ada                      0 Q workq
13.server         pool-3           ada               00:00:09 E workq
14.server         pool-4           ada                      0 H workq
"""

SGE = """job-ID  prior   name       user         state submit/start at     queue               slots ja-task-ID
-----------------------------------------------------------------------------------------------------
     21 0.55500 pool-1     ada          r     11/23/2026 10:00:00 all.q@node1                        4
     22 0.55500 pool-2     ada          qw    11/23/2026 10:00:00                                    4
     23 0.55500 pool-3     ada          Eqw   11/23/2026 10:00:00                                    4
     24 0.55500 pool-4     ada          dr    11/23/2026 10:00:00 all.q@node1                        4
     25 0.55500 pool-5     ada          hqw   11/23/2026 10:00:00                                    4
"""


def test_every_job_queue_can_be_asked() -> None:
    assert {*QUEUES} == {*JOB_QUEUES}


def test_slurm_shows_who_waits_and_why() -> None:
    answer = (
        "1|RUNNING|None|a|/home/ada\n2|PENDING|Resources|b|/pool\n3|PENDING|PartitionTimeLimit|c|/pool\n"
        "4|COMPLETING|None|d|/pool\n5|NODE_FAIL||e|/pool\n6|SIGNALING|None|f|/po|ol\n"
    )
    assert read_slurm(answer) == {
        "1": Entry(RUNNING, folder="/home/ada", name="a"),
        "2": Entry(PENDING, "Resources", folder="/pool", name="b"),
        "3": Entry(PENDING, "PartitionTimeLimit", is_hopeless=True, is_certain=True, folder="/pool", name="c"),
        "4": Entry("ending", folder="/pool", name="d"),
        "6": Entry(RUNNING, folder="/po|ol", name="f"),
    }


def test_pbs_table_in_which_only_jobs_that_wait_have_a_reason() -> None:
    assert read_pbs(PBS) == {
        "11": Entry(RUNNING),
        "12": Entry(PENDING, "Q"),
        "13": Entry("ending"),
        "14": Entry(PENDING, "H"),
    }


def test_grid_engine_table() -> None:
    found = read_sge(SGE)
    assert {job: entry.state for job, entry in found.items()} == {
        "21": RUNNING,
        "22": PENDING,
        "23": PENDING,
        "24": "ending",
        "25": PENDING,
    }
    assert [job for job, entry in found.items() if entry.is_hopeless] == ["23"]


def test_lsf_lines() -> None:
    answer = "31 RUN\n32 PEND\n33 DONE\n34 EXIT\n35 SSUSP\n36 UNKWN\n"
    states = {"31": RUNNING, "32": PENDING, "35": RUNNING, "36": RUNNING}
    assert {job: entry.state for job, entry in read_lsf(answer).items()} == states


def test_oar_lines() -> None:
    answer = "41: Running\n42: Waiting\n43: Terminated\n44: Error\n45: toLaunch\n46: Finishing\n47: toError\n"
    assert read_oar(answer) == {
        "41": Entry(RUNNING),
        "42": Entry(PENDING, "Waiting"),
        "45": Entry(PENDING, "toLaunch"),
        "46": Entry("ending"),
        "47": Entry("ending"),
    }


def test_htcondor_lines() -> None:
    answer = "51 0 2 undefined\n52 0 1 undefined\n53 0 5 Disk quota exceeded\n54 0 4 undefined\n55 0 3 undefined\n"
    assert read_htcondor(answer) == {
        "51.0": Entry(RUNNING),
        "52.0": Entry(PENDING),
        "53.0": Entry(PENDING, "Disk quota exceeded", is_hopeless=True),
        "55.0": Entry("ending"),
    }


@pytest.mark.parametrize("kind", list(QUEUES))
def test_nothing_shown_means_no_jobs(kind: str) -> None:
    assert QUEUES[kind].read("") == {}


@pytest.mark.parametrize("kind", list(QUEUES))
def test_jobs_are_cancelled_as_dask_jobqueue_does_it(kind: str) -> None:
    handler = signal.getsignal(signal.SIGINT)
    import dask_jobqueue  # it replaces the handler

    signal.signal(signal.SIGINT, handler)
    (cluster,) = [found for name, found in vars(dask_jobqueue).items() if name.lower() == f"{kind}cluster"]
    assert QUEUES[kind].cancel == cluster.job_cls.cancel_command
