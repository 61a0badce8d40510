"""A judgement into a moved pointer, or none; `guard.watcher` follows the pointer."""

from guard.errors import Conflict
from guard.exports import Exports
from learner.gate import Judgement


def promote(exports: Exports, judgement: Judgement, version: str, *, expected: str | None, by: str) -> bool:
    """Make a version champion if it was judged fit and nobody holds promotions; return whether it is the champion now.

    Doing it twice is doing it once.

    Args:
        expected: The champion it was judged against; None when there was none.
        by: Who moves the pointer.

    Raises:
        Conflict: The champion is no longer the one it was judged against.
        NotFound: There is no such version.
        BrokenExport: It was altered since it was published.
    """
    champion = exports.champion()
    if champion == version:
        return True
    if not judgement.promote or (champion is not None and exports.hold() is not None):
        return False
    if champion != expected:
        raise Conflict(f"The champion is {champion}, not {expected}: judge {version} against it first.")
    exports.promote(version, by=by, reason="; ".join(judgement.reasons), expected=expected)
    return True
