"""Has each process show the stacks of its threads when it gets SIGUSR1, in a file under its process id."""

import faulthandler
import os
import signal
from pathlib import Path

path = Path(os.environ["SURVEYOR_TEST_STACKS"], str(os.getpid()))
faulthandler.register(signal.SIGUSR1, file=path.open("w"))  # open as long as the process lives
