"""What a data set that cannot be loaded says."""

import pytest

from goldiprox.data.datasets import load
from goldiprox.schema import DataError


def error(name: str, **kwargs) -> str:
    """The message, which is one line."""
    with pytest.raises(DataError) as caught:
        load(name, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message
