"""The states and roles that rows carry; their values appear in JSON unchanged."""

from enum import StrEnum


class MessageState(StrEnum):
    """Where a message is on its way from the pool to a label."""

    POOLED = "pooled"
    PICKED = "picked"
    LABELLED = "labelled"
    UNCLEAR = "unclear"
    CONTESTED = "contested"


class PickState(StrEnum):
    """Whether people have settled a pick; `contested` while they differ, `returned` to the pool when the time was up."""

    WAITING = "waiting"
    CONTESTED = "contested"
    LABELLED = "labelled"
    UNCLEAR = "unclear"
    RETURNED = "returned"


class ContrastState(StrEnum):
    """What people have said of a contrast pair; only what they confirmed is trained on."""

    PROPOSED = "proposed"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    UNCLEAR = "unclear"


class PairKind(StrEnum):
    """What an LLM made of a labelled message: an edit that should change its category, or a variation that should not."""

    CONTRAST = "contrast"
    VARIATION = "variation"


class PairVerdict(StrEnum):
    """What a person says of an LLM's text: its message's label holds for it too, it flips the label, or they can't tell.

    A contrast flips where it belongs to the category it was written for; a variation where it belongs to any other one.
    """

    HOLDS = "holds"
    FLIPS = "flips"
    UNCLEAR = "unclear"


class ReportSource(StrEnum):
    """Who says that a verdict was wrong: the chatbot that got it, or a person who uses or oversees the chatbot."""

    CHATBOT = "chatbot"
    PERSON = "person"


class CycleState(StrEnum):
    """The stages of a cycle and its three ends."""

    SELECTING = "selecting"
    LABELLING = "labelling"
    GENERATING = "generating"
    TRAINING = "training"
    GATING = "gating"
    PROMOTED = "promoted"
    HELD = "held"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the cycle."""
        return self in {CycleState.PROMOTED, CycleState.HELD, CycleState.FAILED}

    def before(self, other: "CycleState") -> bool:
        """Return whether a cycle in this state may go to the other: a later stage or an end."""
        states = list(CycleState)
        return not self.ended and states.index(self) < states.index(other)


class Role(StrEnum):
    """What a key or an account may do; each role may do what those before it may not, and admin may do everything."""

    CLIENT = "client"
    REVIEWER = "reviewer"
    ADMIN = "admin"


class Mark(StrEnum):
    """What a reviewer may put on a pick beside a label: look again, or somebody else should decide."""

    FLAGGED = "flagged"
    HANDED_ON = "handed-on"


class Deed(StrEnum):
    """What people do that the ledger keeps."""

    LABELLED = "labelled"
    UNDONE = "undone"
    FLAGGED = "flagged"
    UNFLAGGED = "unflagged"
    HANDED_ON = "handed-on"
    ADJUDICATED = "adjudicated"
    DOUBT_SETTLED = "doubt-settled"
    CONTRAST_DECIDED = "contrast-decided"
    VARIATION_DECIDED = "variation-decided"
    LOGGED_IN = "logged-in"
    LOGIN_REFUSED = "login-refused"
    LOGGED_OUT = "logged-out"
    REVIEWER_ADDED = "reviewer-added"
    REVIEWER_REVOKED = "reviewer-revoked"
    PASSWORD_SET = "password-set"  # noqa: S105 - no password
    KEY_CREATED = "key-created"
    KEY_REVOKED = "key-revoked"
    USER_ERASED = "user-erased"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"
    HOLD_SET = "hold-set"
    HOLD_ENDED = "hold-ended"
