"""A search for the key of a pool on the whole machine."""

from pathlib import Path

import psutil

from surveyor.pools.pool_folder import PoolFolder


def check_secrets(folder: PoolFolder) -> None:
    """Check that the key of a pool is in no argument, environment, output or file but its own."""
    key = (folder.path / "key.pem").read_text()
    line = key.splitlines()[1]
    visible = []
    for process in psutil.process_iter():
        try:
            visible += [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
    assert visible
    assert [text for text in visible if line in text] == []
    written = [path for path in folder.path.rglob("*") if path.is_file()]
    for left in Path("/tmp").glob("surveyor-worker-*"):
        written += [path for path in left.rglob("*") if path.is_file()]
    assert [path.name for path in written if line in path.read_text(errors="replace")] == ["key.pem"]
