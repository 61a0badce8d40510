"""A browser and a first model for those tests that need one."""

from tests.e2e.browser import chromium, desk, guard
from tests.e2e.models import first_model

__all__ = ["chromium", "desk", "first_model", "guard"]
