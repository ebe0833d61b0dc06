from collections.abc import Collection, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

JSONSchema = dict[str, Any]  # Any: JSON
GIVEN: JSONSchema = {"not": {"type": "null"}}
FILLED: JSONSchema = {"minItems": 1}  # a list that is given


def _title(parameters: type) -> str:
    # What the form of the Prefect UI calls them: it has tabs such as "MACE | None".
    return parameters.__name__.removesuffix("Parameters")


class Parameters(BaseModel):
    """Base of all parameter classes: values, in which a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, model_title_generator=_title)


def exactly_one_of(names: Sequence[str], lists: Collection[str] = ()) -> JSONSchema:
    """Return the part of a JSON schema that requires exactly one of some optional fields of a model.

    The Prefect server refuses by it at submission, and shows its description. It is a `not`, because the form of the
    Prefect UI draws a `oneOf` as a choice of whole models.

    Args:
        names: of the fields.
        lists: those among them that are lists, and are not given if they are empty.
    """
    given = {name: FILLED if name in lists else GIVEN for name in names}
    given_once = {"oneOf": [{"required": [name], "properties": {name: given[name]}} for name in names]}
    return {"not": {"description": f"none or several of {', '.join(names)}; give exactly one", "not": given_once}}


def at_most_one_of(first: str, second: str) -> JSONSchema:
    """Return the part of a JSON schema that refuses two optional fields of a model together."""
    both = {"required": [first, second], "properties": {first: GIVEN, second: GIVEN}}
    return {"not": {"description": f"both {first} and {second}; give only one of them", **both}}


def _exactly_one_field(schema: JSONSchema, choice: type[BaseModel]) -> None:
    schema.update(exactly_one_of(list(choice.model_fields)))


class Choice(Parameters):
    """Base of a choice: one optional field per variant, of which exactly one is given.

    A union of models would be the natural type, but the form of the Prefect UI cannot serve one.
    """

    model_config = ConfigDict(json_schema_extra=_exactly_one_field)

    def model_post_init(self, _context: object) -> None:
        """Check that exactly one variant is given.

        Raises:
            ValueError: none or several are given.
        """
        names = list(type(self).model_fields)
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(
                f"expected exactly one of {', '.join(names)}; found {found}. Give one and leave out the rest"
            )

    @property
    def chosen(self) -> Parameters:
        """The parameters of the variant that was given."""
        (value,) = (getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None)
        return value  # type: ignore[no-any-return]


Fraction = Annotated[float, Field(ge=0, lt=1)]
