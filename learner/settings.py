"""The learner's settings, read once at the edge from `LEARNER_*` variables and passed down as values."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class LearnerSettings(BaseSettings):
    """Every setting of the learner; each is the variable `LEARNER_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="LEARNER_", extra="ignore", frozen=True)

    seed: int = Field(20261120, description="Seed of everything random.")
    threads: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, description="Threads that train and embed."
    )
    corpus_dir: Path = Field(
        Path(__file__).parent / "seed",
        description="Folder with train, dev, gate and must_pass as JSON Lines; the seed corpus by default.",
    )

    strategy: str = Field(
        "stochastic",
        description="Query strategy: stochastic, cluster, random, topn, coreset, margin, cluster-margin, badge or rare.",
    )
    batch_size: int = Field(20, ge=1, description="N: messages that people label in a cycle.")
    clusters: int | None = Field(None, ge=1, description="m: clusters; min(N, max(6, sqrt(pool / 2)), 50) by default.")
    budget: int = Field(
        1_000, ge=0, description="B: labels that people will give in all; the loop stops when it is spent."
    )
    pool_min: int = Field(100, ge=1, description="Messages the pool must hold before a cycle opens.")
    user_cap: int = Field(3, ge=1, description="Messages of one user in one batch.")
    audit_share: Probability = Field(
        0.2, description="Part of a batch drawn at random among the certain verdicts that GUARD_AUDIT_RATE let in."
    )
    estimate_days: int = Field(
        28, ge=1, description="Days of verdicts that error rates are about; at most GUARD_RETENTION_DAYS."
    )
    feedback_share: float = Field(
        0.1, gt=0, le=0.5, description="Part of a batch, one message at least, for what `/feedback` reported as wrong."
    )
    pause_below: float = Field(
        0.002,
        ge=0,
        description="Macro-F1 that the next batch must be able to bring; below it three times in a row the loop pauses. "
        "0: it never does.",
    )
    pause_days: float = Field(30.0, gt=0, description="Longest such pause; then a cycle measures anew.")
    labelling_hours: float = Field(
        72.0, gt=0, description="Time people have for a batch; then the cycle goes on without."
    )
    tick_s: float = Field(15.0, gt=0, description="How often the schedule looks whether there is something to do.")
    lease_s: float = Field(60.0, gt=0, description="How long a learner that stopped answering keeps the lease.")

    variations: int = Field(5, ge=0, description="k: variations the LLM writes of each labelled message.")
    contrast_pairs: int = Field(
        10,
        ge=0,
        description="Labelled messages a cycle that the LLM edits across a measured confusion, for people to confirm; "
        "0: none, and none with LEARNER_VARIATIONS=0.",
    )
    llm_model: str = Field("gpt-4o-mini", description="Model that writes variations.")
    judge_model: str | None = Field(None, description="Model that judges them blind; the same one by default.")
    llm_base_url: str | None = Field(None, description="OpenAI-compatible endpoint; OPENAI_BASE_URL by default.")
    llm_api_key: SecretStr | None = Field(None, description="Its key; OPENAI_API_KEY by default. None: no variations.")
    llm_request_s: float = Field(30.0, gt=0, description="Deadline of one LLM call.")
    llm_stage_s: float = Field(900.0, gt=0, description="Deadline of the whole variation stage.")
    llm_max_calls: int = Field(500, ge=0, description="Spending cap of a cycle, in calls.")
    llm_max_tokens: int = Field(500_000, ge=0, description="Spending cap of a cycle, in tokens.")

    exports_kept: int = Field(10, ge=2, description="Versions kept on disk beside as many former champions.")

    backbone: str = Field("minilm", description="`minilm`, a hub id, or a folder with an encoder and its tokenizer.")
    max_tokens: int = Field(256, ge=16, le=512, description="Tokens of one window, in training and in serving.")
    fine_tune_epochs: int | None = Field(
        None, ge=0, description="Epochs of fine-tuning after the head; 3 or none, as cross-validation says, by default."
    )
    tournament_s: float = Field(
        300.0,
        ge=0,
        description="Time that cross-validating fine-tuning may take, reckoned for two cores; where it is too little for "
        "one split nothing is compared, and minilm stays as it is while other backbones are fine-tuned.",
    )
    variation_weight: Probability | None = Field(
        None,
        description="Weight of a variation in training, where a person's label has 1; of 0, 0.1, 0.3 and 1 what "
        "cross-validation says by default.",
    )
    recall_floor: Probability = Field(
        0.95, description="Share of each harmful category's dev rows that thresholds must keep from being cleared."
    )

    gate_max_loss: float = Field(0.01, ge=0, description="Macro-F1 the challenger may lose at the lower 95 % bound.")
    gate_max_recall_loss: float = Field(0.03, ge=0, description="Recall it may lose on self-harm and on emergencies.")
    gate_max_false_alarm_rise: float = Field(0.01, ge=0, description="By how much its false alarms may rise.")
    gate_max_flips: float = Field(0.02, ge=0, description="Share of the champion's right answers it may get wrong.")
