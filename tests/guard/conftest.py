"""What the guard's own tests share: exports with a toy in them."""

import pytest

from guard.bundle import Bundle
from guard.exports import Exports
from guard.settings import GuardSettings
from tests.toys import publish_toy


@pytest.fixture
def exports(guard_settings: GuardSettings) -> Exports:
    """The exports of `guard_settings`, still empty."""
    return Exports(guard_settings.exports_dir)


@pytest.fixture
def toy(exports: Exports) -> Bundle:
    """A toy export, published, promoted and loaded."""
    return Bundle.load(exports, publish_toy(exports))
