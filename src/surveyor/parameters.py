from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


def _title(parameters: type) -> str:
    # What the form of the Prefect UI calls them: it has tabs such as "MACE | None".
    return parameters.__name__.removesuffix("Parameters")


class Parameters(BaseModel):
    """Base of all parameter classes: values, in which a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, model_title_generator=_title)


class Choice(Parameters):
    """Base of a choice: one optional field per variant, of which exactly one is given.

    A union of models would be the natural type, but the form of the Prefect UI cannot serve one.
    """

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
