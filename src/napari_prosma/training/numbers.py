"""Numbers with limits, for the fields of settings."""

from typing import Annotated

from pydantic import Field

PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
