"""Who holds a lock, in a file or in a bucket, and what becomes of a process that lost one."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.processes import lives, place, started

STALE_SECONDS: Final = 60.0  # without a sign of life, a holder elsewhere is gone
LOST: Final = 3  # exit code of a process whose lock was taken over: it may be started again

_held: set[str] = set()  # tokens of this process's locks


class LockedError(Owl2Error):
    """Somebody else holds the lock."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as its file says.

    Attributes:
      place: the machine and what numbers its processes there.
      processes: {number: when it started, in the machine's own words}.
    """

    token: str
    host: str
    place: str
    processes: Mapping[int, str]
    command: str
    since: str

    @classmethod
    def parse(cls, text: bytes) -> Holder:
        """Raises `ValueError` for what no lock file holds."""
        try:
            values = json.loads(text)
            processes = {int(number): str(start) for number, start in values["processes"].items()}
            words = {key: str(values[key]) for key in ("token", "host", "place", "command", "since")}
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(str(error)) from error
        return cls(processes=processes, **words)

    def dump(self) -> bytes:
        """UTF-8 JSON, as it stands in the lock."""
        return (json.dumps({**vars(self), "processes": dict(self.processes)}, indent=1) + "\n").encode()

    def __str__(self) -> str:
        number = next(iter(self.processes), "?")
        return f"host {self.host}, process {number}, `{self.command}`, since {self.since}"

    def lives_here(self) -> bool | None:
        """Whether one of its processes lives; None where only the holder's machine knows."""
        if self.place != place():
            return None
        if set(self.processes) == {os.getpid()} and self.token not in _held:
            return False  # this process had it, and failed to remove it
        return any(lives(number, start) for number, start in self.processes.items())


def this_process() -> Holder:
    """What a lock of this process says."""
    command = " ".join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])
    return Holder(
        token=secrets.token_hex(8),
        host=socket.gethostname(),
        place=place(),
        processes={os.getpid(): started(os.getpid()) or ""},
        command=command if len(command) <= 200 else f"{command[:197]}...",
        since=time.strftime("%Y-%m-%d %H:%M:%S%z"),
    )


def hold(token: str) -> None:
    """Notes a lock of this process."""
    _held.add(token)


def let_go(token: str) -> None:
    """Forgets a lock of this process."""
    _held.discard(token)


def lost(path: Path, holder: Holder | None) -> LockedError:
    """The error for a lock that is not this process's any more, but that of `holder` where one is known."""
    now = f"was taken over by another process ({holder})" if holder else "is not this process's any more"
    return LockedError(
        f"{path} {now}: it was removed or changed, or this process stood still for more than "
        f"{STALE_SECONDS:g} s"
    )


def end_lost(error: LockedError) -> NoReturn:
    """Two writers would damage what is written, so this one ends at once."""
    print(f"error: {error}; ending", file=sys.stderr, flush=True)
    os._exit(LOST)


def in_use(what: str, holder: Holder | None) -> LockedError:
    """The error for a lock of somebody who lives."""
    who = holder or "its lock file names nobody yet"
    return LockedError(f"{what} is in use: {who}. Wait for it, stop it, or choose another place")
