"""What happens, as it happens: append-only files of events, one JSON object a line.

A function that runs on a pool appends to a file of its own; the flow follows those files. So progress needs no
messaging of the pool's, and any executor serves.
"""

from surveyor.events.log import EventLog, read_lines
from surveyor.events.recording import announce, announce_warning, reporting
from surveyor.events.relay import Relay

__all__ = ["EventLog", "Relay", "announce", "announce_warning", "read_lines", "reporting"]
