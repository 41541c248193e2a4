"""What the tests against slow references share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def seeded():
    torch.manual_seed(3)
