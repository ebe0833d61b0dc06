"""The exceptions of surveyor.

    SurveyorError
    ├── InputError          the user's input is wrong (also a ValueError)
    ├── CampaignInUse       another live process holds the lease of the run directory
    ├── WorkerLost          the worker of a pool died under a function: worth another attempt
    ├── AttemptFailed       a calculation failed, maybe by its machine: worth another attempt elsewhere
    │   └── Preempted       its program was ended from outside, which says nothing of the calculation
    ├── LabelClaimed        another live process computes a label: wait for it
    ├── FunctionFailed      a function on a pool raised an exception unknown in the environment of the flow
    ├── PoolFailed          a pool cannot be opened, or cannot give workers
    ├── StorageFailed       a file system is full, read-only or away
    ├── AtomicEnergyFailed  an isolated atom has no energy, or none in its ground state
    ├── OutOfMemory         a device has not enough memory for one structure
    ├── TrainingFailed      a training ended without a model; carries its directory
    └── NothingLearned      no new label or structure came of the work, or too many failed

Failures that are part of the work (a calculation that does not converge, a walker that explodes) are values, not
exceptions: see `surveyor.labels.LabelFailure` and `surveyor.sampling.walkers.Rejection`.
"""

from pathlib import Path

# What a library raises on data or arguments that its authors have not foreseen: there is no common class.
UNFORESEEN = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class SurveyorError(Exception):
    """The root of all exceptions that surveyor raises on purpose."""


class InputError(SurveyorError, ValueError):
    """The user's input is wrong; the message states what was found, what was expected, and the remedy."""


class CampaignInUse(SurveyorError):
    """Another live process holds the lease of a run directory."""


class WorkerLost(SurveyorError):
    """The worker of a pool died while it ran a function; the function can be submitted again."""


class AttemptFailed(SurveyorError):
    """A calculation failed, possibly because of its machine; another attempt elsewhere may succeed.

    Args:
        message: what failed, and why.
        is_worker_unfit: whether the worker should be given nothing more: programs do not even start there.
    """

    def __init__(self, message: str, is_worker_unfit: bool = False) -> None:
        super().__init__(message, is_worker_unfit)
        self.message = message
        self.is_worker_unfit = is_worker_unfit

    def __str__(self) -> str:
        return self.message


class Preempted(AttemptFailed):
    """The program of a calculation was terminated from outside: by a queue, an administrator, or a user.

    This is not a failure of the calculation, and is not recorded.
    """


class LabelClaimed(SurveyorError):
    """Another live process computes a label: do other work first, then wait for it.

    Args:
        key: key of the label.
        holder: description of the process, for people.
    """

    def __init__(self, key: str, holder: str) -> None:
        super().__init__(key, holder)
        self.key = key
        self.holder = holder

    def __str__(self) -> str:
        return f"label {self.key[:11]} is being computed by {self.holder}"


class FunctionFailed(SurveyorError):
    """A function on a pool raised an exception whose class is not installed here; the text is its traceback."""


class PoolFailed(SurveyorError):
    """A pool cannot be opened, or cannot give workers."""


class StorageFailed(SurveyorError):
    """A file system is full, read-only or unreachable; the message names the file and the remedy."""


class AtomicEnergyFailed(SurveyorError):
    """No energy was obtained for an isolated atom, or not for its ground state."""


class OutOfMemory(SurveyorError):
    """A device has not enough memory for one structure; the message states how large a structure would fit."""


class TrainingFailed(SurveyorError):
    """A training ended without a model.

    Args:
        message: what went wrong.
        directory: where the log and checkpoints of the training are.
    """

    def __init__(self, message: str, directory: Path) -> None:
        super().__init__(message, directory)
        self.message = message
        self.directory = directory

    def __str__(self) -> str:
        return f"{self.message} (see {self.directory})"


class NothingLearned(SurveyorError):
    """A generation returned no new label, a sampling no structure, or more labels failed than the campaign allows."""
