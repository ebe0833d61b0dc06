"""The watch over the logs of servers."""

from pathlib import Path

import pytest
from server_log import ServerLog

CLEAN = "Check out the dashboard\n07:03:29.323 | WARNING | prefect.server - slow\n"
FAILED = "07:03:30.104 | ERROR   | docket - schedule_deployments()\nTraceback (most recent call last):\nNo bulk DML\n"
CANCELLED = """07:03:32.519 | ERROR   | sqlalchemy.pool.impl.AsyncAdaptedQueuePool - Exception during reset or similar
Traceback (most recent call last):
    return await future
asyncio.exceptions.CancelledError
"""
LEFT = """07:03:33.237 | ERROR   | asyncio - Task exception was never retrieved
future: <Task finished name='Task-13712' coro=<WorkerChannelConnection._receive_loop() done>
Traceback (most recent call last):
    message = await self.websocket.receive_json()
starlette.websockets.WebSocketDisconnected: WebSocket is not connected. Need to call "accept" first.
"""
LOCKED = "07:03:31.101 | ERROR   | prefect.server - state\nTraceback (most recent call last):\ndatabase is locked\n"


def test_an_error_in_the_log_of_a_server_is_raised_once(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "server.log")
    log.check()  # there is no log yet
    log.path.write_text(CLEAN + LOCKED + CANCELLED + LEFT)
    log.check()
    log.path.write_text(CLEAN + LOCKED + CANCELLED + LEFT + FAILED)
    with pytest.raises(AssertionError, match=r"has logged 1 errors.*\n.*schedule_deployments"):
        log.check()
    log.check()
