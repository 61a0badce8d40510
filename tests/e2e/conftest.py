"""A browser for those tests that need one."""

from tests.e2e.browser import chromium, desk, guard

__all__ = ["chromium", "desk", "guard"]
