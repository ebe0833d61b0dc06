"""Measure many look-ups in a label store whose service is a round trip away.

Run by hand, with the defaults of 10,000 keys and 20 ms, or with others:

    python benchmarks/look_ups.py [--keys N] [--round-trip-ms T]

The service is a program on loopback that speaks as much of S3 as a label store needs, and answers each request after
the round trip. A labelling asks for keys as this does: when it begins (most are missing), and when it writes results
(all are there). A loop over single look-ups stands beside it.
"""

import argparse
import asyncio
import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from ase.build import molecule

from surveyor.labels import Label, LabelStore, LevelOfTheory
from surveyor.labels.look_ups import outcomes
from surveyor.storage.buckets import S3Access
from surveyor.storage.object_storage import storage_at

LIMIT_S = 30.0  # for 10,000 keys at 20 ms
LEAST_LIMIT_S = 3.0  # for few keys, where the first connections take most of the time
N_SINGLE = 100
MISSING = b"<Error><Code>NoSuchKey</Code></Error>"
WATER, THEORY = molecule("H2O"), LevelOfTheory("none", {"program": "none"})


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description="Time of many look-ups at a service that is a round trip away")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--round-trip-ms", type=float, default=20.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.round_trip_ms / 1e3))
    else:
        with service(options.round_trip_ms) as url:
            measure(options.keys, options.round_trip_ms, url)


def measure(n: int, round_trip_ms: float, url: str) -> None:
    """Time look-ups of keys that are there, and of keys that are not; exit with an error if they take too long."""
    access = S3Access(endpoint=url, region="us-east-1", access_key_id="me", secret_access_key="none")
    store = LabelStore(storage_at("s3://bucket/labels", access))
    keys = [f"v1:{hashlib.sha256(b'%d' % number).hexdigest()}" for number in range(2 * n)]
    there, missing = keys[:n], keys[n:]
    with ThreadPoolExecutor(store.storage.n_at_once) as threads:
        list(threads.map(lambda key: store.put(key, WATER, THEORY, Label(1.0, WATER.positions)), there))
    print(f"{n} keys, {round_trip_ms:g} ms for a round trip, {store.storage.n_at_once} look-ups at once:")
    limit_s, too_slow = max(LEAST_LIMIT_S, LIMIT_S * n / 10_000), []
    for name, some, n_expected in (("all there", there, n), ("none there", missing, 0)):
        seconds = timed(store, some, n_expected)
        print(f"  {name:<12}{seconds:>8.1f} s  (expected at most {limit_s:g} s)")
        too_slow += [f"{name}: {seconds:.1f} s"] * (seconds > limit_s)
    begin = time.monotonic()
    for key in there[:N_SINGLE]:
        store.outcome(key)
    each = (time.monotonic() - begin) / len(there[:N_SINGLE])
    print(f"  one after the other, {1e3 * each:.1f} ms each: {n * each:.0f} s for all that are there")
    if too_slow:
        sys.exit(f"found {', '.join(too_slow)}; expected at most {limit_s:g} s for {n} keys")


def timed(store: LabelStore, keys: Sequence[str], n_expected: int) -> float:
    """Return how long look-ups take."""
    begin = time.monotonic()
    n_found = sum(outcome is not None for _, outcome in outcomes(store, keys))
    if n_found != n_expected:
        sys.exit(f"found {n_found} labels, expected {n_expected}")
    return time.monotonic() - begin


@contextmanager
def service(round_trip_ms: float) -> Iterator[str]:
    """Run the service in a process of its own, and provide its address."""
    command = [sys.executable, __file__, "--serve", "--round-trip-ms", str(round_trip_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def serve(round_trip_s: float) -> None:
    """Serve objects from memory, each request after the round trip."""
    objects: dict[str, bytes] = {}

    async def answer(reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                lengths = [line for line in head.lower().splitlines() if line.startswith("content-length:")]
                content = await reader.readexactly(int(lengths[0].partition(":")[2])) if lengths else b""
                await asyncio.sleep(round_trip_s)
                writer.write(_respond(objects, method, path, content, is_new="if-none-match" in head.lower()))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print("http://{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await server.serve_forever()


def _respond(objects, method, path, content, *, is_new):
    if method == "PUT":
        if is_new and path in objects:
            return _message("412 Precondition Failed", b"")
        objects[path] = content
        return _message("200 OK", b"")
    return _message("200 OK", objects[path]) if path in objects else _message("404 Not Found", MISSING)


def _message(status, content):
    date = "Sun, 29 Nov 2026 09:00:00 GMT"
    tag = hashlib.md5(content, usedforsecurity=False).hexdigest()
    head = f'HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nETag: "{tag}"\r\nLast-Modified: {date}\r\n\r\n'
    return head.encode() + content


if __name__ == "__main__":
    main()
