"""What the flows share that users start: the fields of their form, and failures that say what to do."""

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import Annotated, ParamSpec, TypeVar, cast

from prefect.states import Failed
from pydantic import Field
from pydantic.fields import FieldInfo

from surveyor.errors import SurveyorError
from surveyor.parameter_files import parse_parameters
from surveyor.parameters import Parameters

P = ParamSpec("P")
T = TypeVar("T")

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def _without_traceback(record: logging.LogRecord) -> bool:
    """Take the traceback from the record of an error of surveyor's own, which says what to do."""
    if record.exc_info and isinstance(record.exc_info[1], SurveyorError):
        record.exc_info = None
    return True


def for_users(kind: type[Parameters]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have the function of a flow checked by a class of parameters, and fail with a message that needs no traceback.

    It takes the place of Prefect's own check, which prints all parameters when one is wrong.

    Args:
        kind: has a field for each parameter, with the title and the bounds that the form shows.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for name in LOGGERS:
                logging.getLogger(name).addFilter(_without_traceback)
            given = inspect.signature(function).bind(*args, **kwargs).arguments
            try:
                parameters = parse_parameters(kind, given, function.__name__)
                return function(**{name: getattr(parameters, name) for name in kind.model_fields})  # type: ignore[call-arg]
            except SurveyorError as error:
                return cast(T, Failed(message=str(error), data=error))  # which Prefect raises where the flow is called

        call.__signature__ = _described(inspect.signature(function), kind)  # type: ignore[attr-defined]
        return call

    return decorate


def _described(signature: inspect.Signature, kind: type[Parameters]) -> inspect.Signature:
    """Return a signature with the bounds and titles of a class of parameters, from which Prefect makes the form."""
    parameters = [
        each.replace(annotation=_annotation(kind.model_fields[each.name])) for each in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


def _annotation(field: FieldInfo) -> object:
    title = Field(json_schema_extra={"title": field.title or ""})  # Prefect itself sets the name as title
    return Annotated[(field.annotation, *field.metadata, title)]
