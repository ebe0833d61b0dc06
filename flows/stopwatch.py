"""Wall times of the stages of a generation."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Wall times of the stages of a generation.

    Attributes:
        seconds: by stage.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def times(self) -> dict[str, dict[str, float]]:
        """The times as the manifest of a generation keeps them."""
        return {"wall_time_s": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()}}

    @contextmanager
    def measuring(self, stage: str) -> Iterator[None]:
        """Add the duration of the block to a stage."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - begin
