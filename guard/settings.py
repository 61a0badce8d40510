"""The guard's settings, read once at the edge from `GUARD_*` variables and passed down as values."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from guard.errors import BadConfiguration
from guard.taxonomy import GUIDELINES, Action, Category


class Provider(StrEnum):
    """Where the model runs. `auto` takes CUDA when it is active, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """Which artefact of an export serves. `auto` takes the fastest that is fit for the provider."""

    AUTO = "auto"
    FP32 = "fp32"
    INT8 = "int8"
    FP16 = "fp16"


_S = TypeVar("_S", bound=BaseSettings)
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class GuardSettings(BaseSettings):
    """Every setting of the guard; each is the variable `GUARD_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="GUARD_", extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address to bind. Anything but loopback needs at least one key.")
    port: int = Field(8000, ge=0, le=65535, description="Port to bind.")
    data_dir: Path = Field(Path("var"), description="Folder of the embedded database and the keyring.")
    exports_dir: Path = Field(Path("exports"), description="Folder of the versioned models.")
    database_url: str | None = Field(
        None,
        repr=False,  # it may hold a password
        description="`postgresql://…` or `sqlite:///…`; without it, SQLite in the data folder.",
    )
    keyring: SecretStr | None = Field(
        None, description="The keyring itself, as JSON; otherwise it is read from a file."
    )
    keyring_file: Path | None = Field(None, description="File of the keyring; `keyring.json` in the data folder.")
    url: str | None = Field(
        None, description="The guard that `guard check` asks; without one the champion judges in its process."
    )
    api_key: SecretStr | None = Field(None, description="The key that `guard check` sends to that guard.")
    learner: bool = Field(True, description="Run the learner as a supervised child of `guard serve`.")

    max_text_chars: int = Field(32_000, ge=1, description="Characters of one text; above it 413.")
    max_texts: int = Field(128, ge=1, description="Texts of one request; above it 413.")
    max_body_bytes: int = Field(4_194_304, ge=1024, description="Bytes of a request body; above it 413.")

    provider: Provider = Field(Provider.AUTO, description="auto, cpu or cuda; when demanded and not active, not ready.")
    artefact: Precision = Field(
        Precision.AUTO,
        description="auto, fp32, int8 (CPU) or fp16 (CUDA); auto takes the fastest; when demanded and not there, not ready.",
    )
    threads: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)),
        ge=1,
        description="Threads that run the model; one run uses one thread.",
    )
    max_queue_tokens: int = Field(65_536, ge=512, description="Tokens that may wait for a run; above it 503.")
    deadline_ms: int = Field(5_000, ge=1, description="A request waits at most this long for its verdict, else 503.")
    notice_s: float = Field(
        0.0,
        ge=0,
        description="At SIGTERM, how long it serves on with /readyz at 503, so that load balancers turn away first.",
    )
    drain_s: float = Field(10.0, ge=0, description="After that, how long requests in flight may still take.")
    watch_interval_ms: int = Field(500, ge=10, description="How often the champion pointer is read.")

    shadow_share: Probability = Field(
        0.0, description="Share of requests judged a second time by the version of `guard models shadow`."
    )
    uncertain_above: Probability = Field(0.5, description="Entropy / ln 6 from which a verdict counts as uncertain.")
    audit_rate: Probability = Field(0.01, description="Share of certain verdicts that enters the pool all the same.")
    pool_max_messages: int = Field(100_000, ge=1, description="Unlabelled messages kept; further ones are dropped.")
    intake_max_waiting: int = Field(10_000, ge=1, description="Verdicts waiting to be written to the pool.")
    intake_flush_ms: int = Field(500, ge=1, description="How long a verdict may wait to be written to the pool.")
    feedback_per_user: int = Field(20, ge=0, description="Reports of wrong answers a day about one user's messages.")
    feedback_per_key: int = Field(1_000, ge=0, description="Reports of wrong answers a day with one key.")
    retention_days: int = Field(30, ge=1, description="Age at which an unlabelled message is deleted.")
    labelled_retention_days: int = Field(730, ge=1, description="Age at which a labelled message is deleted.")
    review_lease_s: int = Field(
        600, ge=1, description="How long a reviewer holds a message before another may have it."
    )
    overlap: int = Field(
        2,
        ge=1,
        le=2,
        description="How many reviewers label an audit or what may be self-harm or an emergency, where there are so many.",
    )
    session_idle_s: int = Field(
        3600, ge=60, description="How long a reviewer stays logged in at the desk without doing anything."
    )
    session_max_s: int = Field(43_200, ge=60, description="How long a reviewer stays logged in at most.")
    behind_proxy: bool = Field(
        False,
        description="A proxy stands before the guard and sets X-Forwarded-For: logins are counted by its last address.",
    )

    actions: dict[Category, Action] = Field(
        default_factory=lambda: {c: g.action for c, g in GUIDELINES.items()},
        description="Action of each category, as JSON.",
    )
    action_texts: dict[Category, str] = Field(
        default_factory=dict, description="Text given with a category's action (say, a crisis line), as JSON."
    )
    block_from: Literal[Action.ADVISE, Action.ESCALATE] = Field(
        Action.ADVISE, description="Least action at which LiteLLM is told to block: advise or escalate."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level logged.")

    @field_validator("actions")
    @classmethod
    def _complete(cls, actions: dict[Category, Action]) -> dict[Category, Action]:
        """Fall back to the taxonomy where `GUARD_ACTIONS` names no action."""
        return {category: actions.get(category, guideline.action) for category, guideline in GUIDELINES.items()}

    @property
    def store_url(self) -> str:
        """The database's URL with the asynchronous driver named."""
        if self.database_url is None:
            return f"sqlite+aiosqlite:///{(self.data_dir / 'guard.sqlite').absolute()}"
        scheme, _, rest = self.database_url.partition("://")
        match scheme.partition("+")[0]:
            case "postgresql" | "postgres":
                return f"postgresql+asyncpg://{rest}"
            case "sqlite":
                return f"sqlite+aiosqlite://{rest}"
        return self.database_url

    @property
    def keyring_path(self) -> Path:
        """The keyring's file."""
        return self.keyring_file or self.data_dir / "keyring.json"

    def action(self, category: Category) -> Action:
        """Return the action for a category."""
        return self.actions[category]

    def uncertain(self, uncertainty: float) -> bool:
        """Return whether a verdict of this uncertainty is one that people should see."""
        return uncertainty >= self.uncertain_above


def read_settings(kind: type[_S]) -> _S:
    """Read settings of a kind from the environment.

    Raises:
        BadConfiguration: A variable has a value that cannot be; the message names it and never repeats the value.
    """
    try:
        return kind()
    except ValidationError as error:
        prefix = kind.model_config.get("env_prefix", "")
        problems = (f"{prefix}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise BadConfiguration("; ".join(problems)) from None
    except SettingsError as error:
        raise BadConfiguration(f"A variable cannot be read: {error}.") from None
