"""The state of jobs in the queue of a cluster: the query commands, and the parsers of their output.

dask-jobqueue submits jobs, but never checks whether they still exist. The commands to cancel jobs are also defined
here: dask-jobqueue can be imported only in the main thread, but a pool may be closed in any thread.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

State = Literal["pending", "running", "ending"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A job in the queue; ended jobs are not listed.

    Attributes:
        state: whether it is pending, running, or being terminated while its processes may still run.
        reason: why it is pending, or why it is taken away, in the queue's words.
        is_hopeless: whether it will never run according to the queue.
        is_certain: whether an identical job would not run either.
        folder: its working directory, if the queue reports it.
        name: its name, if the queue reports it.
        taken_at: when its machine is taken away or was, in seconds since the epoch, if the queue shows that.
        is_silent: whether its machine does not answer the queue, so that a lost worker was lost with it.
        is_refused: whether a cloud that had accepted it has no room for it after all, which is no failure.
    """

    state: State
    reason: str = ""
    is_hopeless: bool = False
    is_certain: bool = False
    folder: str = ""
    name: str = ""
    taken_at: float | None = None
    is_silent: bool = False
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class Queue:
    """The commands of one kind of queue.

    Attributes:
        cancel: command that cancels jobs, followed by their ids.
        command: returns the query command, given the name of the user and the ids of the jobs.
        read: returns the entries by id, given the standard output of the command.
        unknown: text of standard error, in lower case, if the command fails only because a job has ended.
        tells_folder: whether the answer lists all jobs of the user with their folders.
    """

    cancel: str
    command: Callable[[str, Sequence[str]], list[str]]
    read: Callable[[str], dict[str, Entry]]
    unknown: tuple[str, ...] = ()
    tells_folder: bool = False


# SLURM's reasons for which a job waits for ever unless somebody changes it or the partition.
CERTAIN = re.compile(
    r"BadConstraints|Invalid|NotAllowed|PerJob|PartitionConfig|PartitionNodeLimit|PartitionTimeLimit|QOSMin"
)
HELD = "JobHeldAdmin"  # somebody has held this one


def read_slurm(answer: str) -> dict[str, Entry]:
    """Read `squeue -h -o "%i|%T|%r|%j|%Z"`."""
    pending = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
    over = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
    over |= {"REVOKED", "TIMEOUT"}
    entries = {}
    for line in answer.splitlines():
        job, state, reason, name, folder = [*line.split("|", 4), "", "", "", ""][:5]
        if state in pending:
            is_certain = CERTAIN.search(reason) is not None
            entries[job] = Entry("pending", reason, is_certain or HELD in reason, is_certain, folder, name)
        elif state == "COMPLETING":
            entries[job] = Entry("ending", folder=folder, name=name)
        elif state not in over:  # there are many ways to be alive, such as SUSPENDED, RESIZING and SIGNALING
            entries[job] = Entry("running", folder=folder, name=name)
    return entries


def _states(**words: str) -> Mapping[str, State]:
    """Return the state that each word of a queue means, given the words of each state."""
    return {word: cast("State", state) for state, of_state in words.items() for word in of_state.split()}


def read_pbs(answer: str) -> dict[str, Entry]:
    """Read the table of `qstat ID ...`, in which the state is the last column but one."""
    return _table(answer, _states(pending="Q H W", running="R S T U B", ending="E"), column=-2)


def read_lsf(answer: str) -> dict[str, Entry]:
    """Read `bjobs -noheader -o "jobid stat"`."""
    return _table(answer, _states(pending="PEND PSUSP WAIT", running="RUN USUSP SSUSP UNKWN"), column=1)


def read_sge(answer: str) -> dict[str, Entry]:
    """Read the table of `qstat -u USER`, in which the state is the fifth column."""
    entries = {}
    for job, words in _rows(answer):
        state = words[4] if len(words) > 4 else ""
        if "d" in state:
            entries[job] = Entry("ending")
            continue
        if "q" in state:
            entries[job] = Entry("pending", state, is_hopeless="E" in state)
        elif set(state) & set("rtsST"):
            entries[job] = Entry("running")
    return entries


def read_oar(answer: str) -> dict[str, Entry]:
    """Read `oarstat -s -j ID ...`, which says "ID: State"."""
    states = _states(
        pending="Waiting Hold toLaunch Launching", running="Running Suspended Resuming", ending="Finishing toError"
    )
    pairs = [(job.strip(), state.strip()) for job, _, state in (line.partition(":") for line in answer.splitlines())]
    return {job: _entry(states[state], state) for job, state in pairs if state in states}


def read_htcondor(answer: str) -> dict[str, Entry]:
    """Read `condor_q -af ClusterId ProcId JobStatus HoldReason`; in status 3 a job is removed, in 5 it is held."""
    entries = {}
    for line in answer.splitlines():
        words = line.split(maxsplit=3)
        if len(words) < 3:
            continue
        job, status, reason = f"{words[0]}.{words[1]}", words[2], words[3] if len(words) > 3 else ""
        if status in ("1", "5"):
            entries[job] = Entry("pending", reason if status == "5" else "", is_hopeless=status == "5")
        elif status in ("2", "6", "7"):
            entries[job] = Entry("running")
        elif status == "3":
            entries[job] = Entry("ending")
    return entries


def _rows(answer: str) -> list[tuple[str, list[str]]]:
    """Return the rows of a table that begin with a number, the id of a job, each with its words."""
    rows = [line.split() for line in answer.splitlines()]
    return [(words[0].partition(".")[0], words) for words in rows if words and words[0].partition(".")[0].isdecimal()]


def _table(answer: str, states: Mapping[str, State], column: int) -> dict[str, Entry]:
    return {
        job: _entry(states[words[column]], words[column])
        for job, words in _rows(answer)
        if len(words) > abs(column) and words[column] in states
    }


def _entry(state: State, word: str) -> Entry:
    """Return a job whose queue has a word for its state, and no other reason for which it waits."""
    return Entry(state, word if state == "pending" else "")


QUEUES: Mapping[str, Queue] = {
    "slurm": Queue(
        "scancel",
        lambda user, _: ["squeue", "-a", "-h", "-u", user, "-o", "%i|%T|%r|%j|%Z"],
        read_slurm,
        tells_folder=True,
    ),
    "pbs": Queue("qdel", lambda _, jobs: ["qstat", *jobs], read_pbs, ("unknown job", "has finished")),
    "lsf": Queue(
        "bkill", lambda _, jobs: ["bjobs", "-noheader", "-o", "jobid stat", *jobs], read_lsf, ("is not found",)
    ),
    "sge": Queue("qdel", lambda user, _: ["qstat", "-u", user], read_sge),
    "oar": Queue(
        "oardel",
        lambda _, jobs: ["oarstat", "-s", *(word for job in jobs for word in ("-j", job))],
        read_oar,
        ("not found",),
    ),
    "htcondor": Queue(
        "condor_rm",
        lambda _, jobs: ["condor_q", *jobs, "-af", "ClusterId", "ProcId", "JobStatus", "HoldReason"],
        read_htcondor,
    ),
}
