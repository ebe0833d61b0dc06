"""Names of runs: those given by a user are kept, and those made up by Prefect are replaced."""

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import coolname.data
from prefect import runtime

# As the form of version 2 of the Prefect UI fills them in, such as Ergonomic-Newt.
OF_THE_FORM = re.compile(
    "(Awesome|Rustic|Small|Gorgeous|Fantastic|Sleek|Intelligent|Unbranded|Refined|Licensed|Generic|Practical|Ergonomic|"
    "Handcrafted|Tasty|Handmade|Incredible)-[A-Z][a-zñ]{1,5}"
)
CONFIGURATION = cast(Mapping[str, Mapping[str, Any]], coolname.data.config)  # Any: words, numbers and names of parts
OF_THE_SERVER = {word for part in CONFIGURATION.values() for word in part.get("words", ())}


def unless_named(name: Callable[[], str]) -> Callable[[], str]:
    """Return a function that names a run, unless its user has given it a name."""

    def choose() -> str:
        given = str(runtime.flow_run.name)
        return name() if is_made_up(given) else given

    return choose


def is_made_up(name: str) -> bool:
    """Return whether Prefect makes up such names for runs that were given none."""
    words = name.split("-")
    return bool(OF_THE_FORM.fullmatch(name)) or (len(words) == 2 and set(words) <= OF_THE_SERVER)
