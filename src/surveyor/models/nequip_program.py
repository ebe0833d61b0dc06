"""NequIP's training program, with exit codes for lack of memory and for termination by a signal.

    python -m surveyor.models.nequip_program OVERRIDES

It runs in the directory of a training, with the config.yaml there; see `nequip-train` for the overrides.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from surveyor.models.trainer_process import exit_when_out_of_memory


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the process by the signal SIGTERM or SIGINT, where Lightning has turned it into an exit.

    After SIGTERM, Lightning ends with the exit code of a training that is complete.
    """
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    try:
        yield
    except SystemExit as exit_:
        if isinstance(exit_, SIGTERMException):
            _die_by(signal.SIGTERM)
        if isinstance(exit_.__context__, KeyboardInterrupt):
            _die_by(signal.SIGINT)
        raise


def _die_by(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def main() -> None:
    """Run NequIP's training program."""
    from nequip.scripts import train

    with exit_when_out_of_memory(), ended_by_signals():
        train.main()


if __name__ == "__main__":
    main()
