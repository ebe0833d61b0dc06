"""The flows that users start: the fields of their form, failures with their remedies, and a display in Python."""

import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, Generic, ParamSpec, TypeVar, cast

from prefect import Flow, runtime
from prefect.context import FlowRunContext
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import (
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
    temporary_settings,
)
from prefect.states import Failed
from pydantic import Field
from pydantic.fields import FieldInfo
from rich.console import Console

from surveyor.errors import InputError, SurveyorError
from surveyor.flows.display import View, following
from surveyor.flows.run_names import unless_named
from surveyor.flows.server import outlasting_outages, wait_for_server
from surveyor.parameters import Parameters
from surveyor.parameters.files import absolute_paths, parse_parameters
from surveyor.run_directory import RunDirectory
from surveyor.works.parameters import WorkParameters

P = ParamSpec("P")
T = TypeVar("T")

SERVER_START_S = 300
LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def users_flow(view: View) -> Callable[[Callable[P, Path]], "UsersFlow[P]"]:
    """Make a flow of a function, like `prefect.flow`.

    Args:
        view: of the kind of work, whose class of parameters has a field for each parameter, with the title and the
            bounds that the form shows.
    """
    kind = view.kind.parameters

    def name() -> str:
        return view.run_name.format(Path(runtime.flow_run.parameters[kind.FOLDER]).name)

    def decorate(function: Callable[P, Path]) -> UsersFlow[P]:
        flow = UsersFlow(
            _checked(function, kind),
            name=function.__name__.replace("_", "-"),
            flow_run_name=unless_named(name),
            validate_parameters=False,  # in place of Prefect's check, which prints all parameters when one is wrong
        )
        flow.kind, flow.view = kind, view
        return flow

    return decorate


class UsersFlow(Flow[P, Path], Generic[P]):
    """A flow that checks its parameters before Prefect hears of them, and shows its work like the command line.

    Called with `display=False` it prints nothing. Within another flow it has no display, but the log of Prefect.
    """

    kind: type[WorkParameters]
    view: View

    # Any: as `Flow` has it, which knows no `display`.
    def __call__(self, *args: Any, display: bool = True, **kwargs: Any) -> Any:  # type: ignore[override]
        """Run the flow.

        Args:
            args: parameters.
            display: whether to show the work.
            kwargs: parameters, and what all flows of Prefect take.

        Returns:
            The main file of the results.

        Raises:
            InputError: a parameter cannot work.
            TypeError: there are too many parameters, or one is given twice.
        """
        for_prefect = {name: kwargs.pop(name) for name in ("return_state", "wait_for") if name in kwargs}
        signature = inspect.signature(self.fn)
        known = {name: value for name, value in kwargs.items() if name in signature.parameters}
        # Names that are not known have a message of surveyor's own.
        given = {**signature.bind_partial(*args, **known).arguments, **kwargs}
        parameters = parse_parameters(self.kind, given, f"{self.fn.__name__}()")
        check_size(parameters)
        run = partial(super().__call__, **dict(parameters), **for_prefect)
        if FlowRunContext.get() is not None:
            return run()
        _check_files(parameters)
        with _quiet_prefect(), _patient_with_a_server():
            return self._displayed(parameters, run) if display else run()

    def _displayed(self, parameters: WorkParameters, run: Callable[[], T]) -> T:
        directory, console = RunDirectory(parameters.folder), Console(highlight=False, soft_wrap=True)
        with following(directory, console, self.view):
            result = run()
        if isinstance(result, Path):
            self.view.conclude(console, directory, result)
        return result


def _check_files(parameters: WorkParameters) -> None:
    for name, path in absolute_paths(parameters, Path.cwd()).input_files().items():
        if not path.is_file():
            raise InputError(f"{name}: file {path} does not exist; relative paths begin in the current folder")


@contextmanager
def _quiet_prefect() -> Iterator[None]:
    """Suppress Prefect's console output within the block, as the display shows the work."""
    loggers = [logging.getLogger(name) for name in (None, *logging.root.manager.loggerDict)]
    handlers = [each for logger in loggers for each in logger.handlers if isinstance(each, PrefectConsoleHandler)]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


@contextmanager
def _patient_with_a_server() -> Iterator[None]:
    """Give Prefect's temporary server time: on a new database a busy machine takes longer than Prefect's 20 s."""
    setting = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS
    with temporary_settings({setting: max(setting.value(), SERVER_START_S)}):
        yield


def check_size(parameters: Parameters) -> None:
    """Check that the parameters are small enough for the Prefect server.

    Raises:
        InputError: they are too large; the message names the largest field.
    """
    content, limit = parameters.model_dump(mode="json"), get_current_settings().server.api.max_parameter_size
    if not limit or _size(content) <= limit:
        return
    path, size = _largest(content)
    raise InputError(
        f"{path}: takes {size:,} bytes of {_size(content):,} in all, but Prefect stores {limit:,} of parameters. Write "
        "it to a file and name the file (such as input instead of input_text), or give less"
    )


def _size(content: object) -> int:
    return len(json.dumps(content, separators=(",", ":")))


def _largest(content: Any, path: str = "") -> tuple[str, int]:  # Any: JSON
    """Return the path and the size of the innermost field that contains most of the data."""
    if isinstance(content, Mapping):
        items = {f"{path}.{name}".removeprefix("."): value for name, value in content.items()}
    elif isinstance(content, list):
        items = {f"{path}[{index}]": value for index, value in enumerate(content)}
    else:
        return path, _size(content)
    name = max(items, key=lambda each: _size(items[each]), default=path)
    is_most = name in items and 2 * _size(items[name]) > _size(content)
    return _largest(items[name], name) if is_most or not path else (path, _size(content))


def _checked(function: Callable[P, T], kind: type[Parameters]) -> Callable[P, T]:
    """Have the function of a flow checked by a class of parameters, and fail with a message that needs no traceback."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in LOGGERS:
            logging.getLogger(name).addFilter(_without_traceback)
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        try:
            parameters = parse_parameters(kind, given, function.__name__)
            with outlasting_outages():
                result = function(**{name: getattr(parameters, name) for name in kind.model_fields})  # type: ignore[call-arg]
            wait_for_server()  # for what follows, the end of the run, Prefect has less patience
            return result
        except SurveyorError as error:
            return cast(T, Failed(message=str(error), data=error))  # which Prefect raises where the flow is called

    call.__signature__ = _described(inspect.signature(function), kind)  # type: ignore[attr-defined]
    return call


def _without_traceback(record: logging.LogRecord) -> bool:
    """Remove the traceback from the log record of an error of surveyor, whose message states the remedy."""
    if record.exc_info and isinstance(record.exc_info[1], SurveyorError):
        record.exc_info = None
    return True


def _described(signature: inspect.Signature, kind: type[Parameters]) -> inspect.Signature:
    """Return a signature with the bounds and titles of a class of parameters, from which Prefect makes the form."""
    parameters = [
        each.replace(annotation=_annotation(kind.model_fields[each.name])) for each in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


def _annotation(field: FieldInfo) -> object:
    title = Field(json_schema_extra={"title": field.title or ""})  # Prefect itself sets the name as title
    return Annotated[(field.annotation, *field.metadata, title)]
