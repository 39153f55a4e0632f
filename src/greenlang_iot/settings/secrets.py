"""The secrets that a settings tree holds, so that logs can blank them."""

from collections.abc import Iterator

from pydantic import BaseModel, SecretStr


def secrets(section: object) -> Iterator[str]:
    """Every secret's value below `section`, in no particular order."""
    if isinstance(section, SecretStr):
        yield section.get_secret_value()
    elif isinstance(section, BaseModel):
        for name in type(section).model_fields:
            yield from secrets(getattr(section, name))
    elif isinstance(section, list | tuple):
        for item in section:
            yield from secrets(item)
