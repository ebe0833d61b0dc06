"""Claims on labels in computation, so that campaigns that share a store do not compute a label twice at once.

A claim is a small record in the store, under the key of the label. A process that computes a label first creates the
claim, changes it regularly as a sign of life, and removes it when the label or its failure is in the store. Others wait
until then. The claim of a dead process is succeeded by another claim, whose name contains the token of the dead one:
because a name can be created only once, exactly one of several successors wins. The last claim of such a chain is
valid.

No clocks are compared: a claim is silent if an observer has seen no change for a given time.
"""

import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from surveyor.errors import LabelClaimed
from surveyor.events.kinds import ClaimSilent, LabelAwaited
from surveyor.events.recording import announce
from surveyor.lease import has_ended, is_on_this_host, this_process
from surveyor.storage import Storage, sharded

HEARTBEAT_S = 20.0
SILENT_S = 300.0  # who is silent for so long is taken for dead
QUIET_S = 60.0  # who is silent for so long is told, and how long that is waited for
LOOK_S = 1.0  # how often those who wait look
REMOTE_LOOK_S = 5.0  # how often they ask for one claim where each look is a request to a service

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim read from the store.

    Attributes:
        name: name in the storage.
        content: content of the record; a change is a sign of life.
        token: unique name of this claim.
        holder: process and host; None if a crash of the machine left an incomplete record.
        work: name of the work, see `Claimant`.
    """

    name: str
    content: bytes
    token: str
    holder: Mapping[str, Any] = field(hash=False)  # Any: strings and numbers
    work: str | None = None

    @classmethod
    def read(cls, name: str, content: bytes) -> "Claim":
        """Return the claim in a record."""
        try:
            found = json.loads(content)
            return cls(name, content, found["token"], found["holder"], found["work"])
        except (ValueError, KeyError, TypeError):
            return cls(name, content, hashlib.sha256(name.encode()).hexdigest()[:16], {})

    @property
    def is_on_this_host(self) -> bool:
        """True if its process is known to run, or to have run, on this host."""
        return bool(self.holder) and is_on_this_host(self.holder)

    @property
    def has_ended(self) -> bool:
        """True if its process is known to have ended, as it ran on this host."""
        return self.is_on_this_host and has_ended(self.holder)

    def __str__(self) -> str:
        return f"process {self.holder['pid']} on {self.holder['host']}" if self.holder else "an unknown process"


@dataclass(frozen=True, slots=True)
class Claimant:
    """A process that wants to compute a label, with the claims of others that it may ignore.

    Attributes:
        work: name of work that only one process does at a time, such as a task with its retries: another claim of the
            same work belongs to an attempt whose worker was lost. None for work without a name.
        dead: tokens of claims that were silent for too long.
    """

    work: str | None = None
    dead: frozenset[str] = frozenset()

    def heeds(self, claim: Claim) -> bool:
        """Return whether a claim prevents this one."""
        is_own = self.work is not None and claim.work == self.work
        return not (is_own or claim.token in self.dead or claim.has_ended)


ANYBODY = Claimant()


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims in a store.

    Attributes:
        storage: storage of the claims, beside the labels.
    """

    storage: Storage

    def of(self, key: str) -> Claim | None:
        """Return the claim on a label, possibly of a dead process, or None."""
        chain = self._chain(key)
        return chain[-1] if chain else None

    def watch(self) -> "Watch":
        """Return a new observer of these claims."""
        return Watch(self)

    @contextmanager
    def held(self, key: str, claimant: Claimant = ANYBODY, *, heartbeat_s: float = HEARTBEAT_S) -> Iterator[None]:
        """Hold the claim on a label, with signs of life, within the block.

        If the store cannot accept the claim, because it is full or unreachable, the label is computed without a claim.

        Raises:
            LabelClaimed: another live process holds the claim.
        """
        try:
            mine = self._take(key, claimant)
        except OSError as error:
            logger.warning("label %s is computed without a claim, so others may compute it, too: %s", key[:11], error)
            yield
            return
        try:
            with _heart.beating(_Pulse(self.storage, mine, heartbeat_s)):
                yield
        finally:
            with suppress(OSError):  # the claim of a process that ended, or is silent, hinders nobody for long
                self._release(key, mine)

    def _chain(self, key: str) -> list[Claim]:
        """Return the claims on a label, each the successor of the one before."""
        chain: list[Claim] = []
        name = _name(key)
        while (content := self.storage.get(name)) is not None:
            chain.append(Claim.read(name, content))
            name = _name(key, chain[-1].token)
        return chain

    def _take(self, key: str, claimant: Claimant) -> Claim:
        while True:
            chain = self._chain(key)
            if chain and claimant.heeds(chain[-1]):
                raise LabelClaimed(key, str(chain[-1]))
            mine = _new(_name(key, chain[-1].token if chain else None), claimant)
            if not self.storage.put_new(mine.name, mine.content, durable=False):
                continue  # another one was quicker
            if not chain:
                return mine
            if mine in self._chain(key):
                logger.warning("taking over label %s from %s, which is dead", key[:11], chain[-1])
                return mine
            self.storage.remove(mine.name)  # meanwhile the chain was taken over and removed: this succeeds nobody

    def _release(self, key: str, mine: Claim) -> None:
        chain = self._chain(key)
        if chain and chain[-1].token == mine.token:
            for each in chain:  # the first one first: what succeeds the others is found by nobody then
                self.storage.remove(each.name)


def _name(key: str, predecessor: str | None = None) -> str:
    return f"claims/{sharded(key)}{'' if predecessor is None else f'-{predecessor}'}.json"


def _new(name: str, claimant: Claimant) -> Claim:
    mine = Claim(name, b"", secrets.token_hex(8), this_process(), claimant.work)
    return Claim.read(name, _content(mine, 0))


def _content(claim: Claim, n_beats: int) -> bytes:
    # Of one length, so that a folder's readers see no part of a change.
    record = {"token": claim.token, "holder": dict(claim.holder), "work": claim.work, "beats": f"{n_beats:06d}"}
    return json.dumps(record).encode()


@dataclass(slots=True, eq=False)
class _Pulse:
    """The signs of life of one claim.

    Attributes:
        storage: where the claim is.
        claim: its holder is this process.
        interval_s: how often a sign is given.
        n_beats: how many were given.
    """

    storage: Storage
    claim: Claim
    interval_s: float
    n_beats: int = 0

    def beat(self) -> None:
        with suppress(OSError):  # a file system that is away for a moment must not end the heartbeat
            content = self.storage.get(self.claim.name)
            if content is None or Claim.read(self.claim.name, content).token != self.claim.token:
                return  # another process took this one for dead, and is done
            self.n_beats += 1
            self.storage.renew(self.claim.name, content, _content(self.claim, self.n_beats))


class _Heart:
    """The signs of life of all claims of this process, given by one thread: one for each label would cost more."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget claims and thread, which are those of another process in a process that was forked."""
        self._beats = threading.Lock()  # who has it can rely on no sign of life being given meanwhile
        self._pulses: list[_Pulse] = []
        self._waits_s = HEARTBEAT_S
        self._quicken = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def beating(self, pulse: _Pulse) -> Iterator[None]:
        """Give signs of life within the block; none is given afterwards."""
        with self._beats:
            self._pulses.append(pulse)
            self._start(pulse.interval_s)
        try:
            yield
        finally:
            with self._beats:
                self._pulses.remove(pulse)

    def _start(self, interval_s: float) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="claims", daemon=True)
            self._thread.start()
        elif interval_s < self._waits_s:
            self._quicken.set()

    def _run(self) -> None:
        while True:
            with self._beats:
                self._waits_s = min((each.interval_s for each in self._pulses), default=HEARTBEAT_S)
                self._quicken.clear()
            if not self._quicken.wait(self._waits_s):
                for pulse in tuple(self._pulses):
                    self._beat(pulse)

    def _beat(self, pulse: _Pulse) -> None:
        with self._beats:
            if pulse in self._pulses:
                try:
                    pulse.beat()
                except Exception:  # one claim must not end the signs of life of the others
                    logger.exception("the claim %s gives no sign of life", pulse.claim.name)


_heart = _Heart()
os.register_at_fork(after_in_child=_heart.forget)


class Watch:
    """An observer of the claims of other processes, which detects dead ones by their silence.

    Args:
        claims: the claims to observe.
        silent_s: time without a sign of life after which a process counts as dead.

    Attributes:
        dead: tokens of the claims to ignore.
    """

    def __init__(self, claims: Claims, *, silent_s: float = SILENT_S) -> None:
        self.claims = claims
        self.silent_s = silent_s
        self.dead: frozenset[str] = frozenset()
        self._seen: dict[str, tuple[bytes | None, float]] = {}  # by token, the last content and when it was seen first
        self._waits_until = 0.0  # the latest time that was told
        self._held: dict[str, float] = {}  # by key, when its claim was last seen to be held
        self._look_s = min(REMOTE_LOOK_S, silent_s) if claims.storage.n_at_once > 1 else 0.0

    def is_held(self, key: str, work: str | None = None) -> bool:
        """Return whether another process that lives, as far as this observer has seen, computes a label.

        Args:
            key: of the label.
            work: of the observer, see `Claimant`.
        """
        now = time.monotonic()
        if now < self._held.get(key, -self._look_s) + self._look_s:
            return True
        try:
            claim = self.claims.of(key)
        except OSError:  # a file system that is away for a moment
            return True
        if claim is None:
            return False
        if Claimant(work, self.dead).heeds(claim) and self._silence_s(key, claim) <= self.silent_s:
            self._held[key] = now
            return True
        self.dead |= {claim.token}  # also what only this host can know to have ended
        return False

    def wait(self, key: str) -> None:
        """Wait until no live process computes a label."""
        while self.is_held(key):
            time.sleep(LOOK_S)

    def _silence_s(self, key: str, claim: Claim) -> float:
        now = time.monotonic()
        if not self._seen:
            awaited = f"label {key[:11]}, at least, is being computed by {claim}; this waits for it"
            limit = f"unless it shows no sign of life for {self.silent_s / 60:g} min"
            announce(logger, LabelAwaited(message=f"{awaited}, {limit}"))
        content, since = self._seen.get(claim.token, (None, now))
        if content != claim.content:
            self._seen[claim.token] = claim.content, now
            return 0.0
        if (silence_s := now - since) > min(QUIET_S, self.silent_s):
            self._report_silence(claim, silence_s)
        return silence_s

    def _report_silence(self, claim: Claim, silence_s: float) -> None:
        """Say until when a silent process is waited for, unless that was said of another one a moment ago."""
        until = time.time() + self.silent_s - silence_s
        if until > self._waits_until + QUIET_S:
            self._waits_until = until
            clock = time.strftime("%H:%M:%S", time.localtime(until))
            text = f"{claim} shows no sign of life; without one by {clock}, its labels are computed here"
            announce(logger, ClaimSilent(message=text, until=until, holder=str(claim)))
