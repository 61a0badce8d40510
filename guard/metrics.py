"""Every series Lifeguard exposes. Labels are categories, routes, states and versions: never a text, never a user."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from guard.decision import Verdict
from guard.exports import Manifest
from guard.kappa import Kappa
from guard.settings import GuardSettings
from guard.shares import Holding
from guard.store.figures import Estimated
from guard.store.states import CycleState, MessageState
from guard.taxonomy import Action, Category

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SHARES: Final = tuple(i / 10 for i in range(1, 11))
_COUNTS: Final = (1, 2, 4, 8, 16, 32, 64)
_RATES: Final = {
    "miss_rate": "Of the verdicts on messages of a category, the share that names another one",
    "cleared_rate": "Of the verdicts on messages of a harmful category, the share that says not-harmful",
    "false_alarm_rate": "Of the verdicts on messages of other categories, the share that names the category",
    "precision": "Of the verdicts that name a category, the share on messages of that category",
}


class Metrics:
    """One registry with all series; an application makes its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        # what callers see
        self.requests = Counter(
            "guard_requests", "Requests by route and status.", ["method", "route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "guard_request_seconds", "Time of a request.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.verdicts = Counter(
            "guard_verdicts", "Verdicts by category and action.", ["category", "action"], registry=registry
        )
        self.uncertainty = Histogram(
            "guard_uncertainty", "Entropy / ln 6 of a verdict.", ["category"], buckets=_SHARES, registry=registry
        )
        self.disguised = Counter(
            "guard_disguised",
            "Verdicts that the undisguised reading of a text decided, by category.",
            ["category"],
            registry=registry,
        )
        for category in Category:
            self.disguised.labels(category)
            self.uncertainty.labels(category)
            for action in Action:
                self.verdicts.labels(category, action)

        # how they are made
        self.stage_seconds = Histogram(
            "guard_stage_seconds", "Time by stage: encode, queue, run.", ["stage"], buckets=_SECONDS, registry=registry
        )
        self.encode_seconds, self._queue_seconds, self._run_seconds = (
            self.stage_seconds.labels(stage) for stage in ("encode", "queue", "run")
        )
        self.run_windows = Histogram("guard_run_windows", "Windows of a run.", buckets=_COUNTS, registry=registry)
        self.queue_tokens = Gauge("guard_queue_tokens", "Tokens that wait for a run.", registry=registry)
        self.model_info = Gauge(
            "guard_model_info",
            "1 for the model in service.",
            ["model_version", "backbone", "artefact", "parent"],
            registry=registry,
        )
        self.swaps = Counter("guard_swaps", "Swaps of the model by result.", ["result"], registry=registry)
        for result in ("swapped", "failed"):
            self.swaps.labels(result)
        self.ready = Gauge("guard_ready", "1 when it can classify, as /readyz says.", registry=registry)
        self.champion_followed = Gauge(
            "guard_champion_followed", "0 while the champion cannot be loaded or found out.", registry=registry
        )
        self.queue_max_tokens = Gauge(
            "guard_queue_max_tokens", "Tokens that may wait (GUARD_MAX_QUEUE_TOKENS).", registry=registry
        )

        # what enters the pool
        self.intake = Counter("guard_intake", "Verdicts offered to the pool by fate.", ["fate"], registry=registry)
        for fate in ("new", "repeated", "dropped_full", "dropped_queue", "retried", "same_call"):
            self.intake.labels(fate)
        self.intake_waiting = Gauge("guard_intake_waiting", "Verdicts that wait to be written.", registry=registry)
        self.pool_max_messages = Gauge(
            "guard_pool_max_messages", "Messages the pool takes (GUARD_POOL_MAX_MESSAGES).", registry=registry
        )

        # what callers call wrong
        self.feedback = Counter(
            "guard_feedback",
            "Answers reported as wrong by verdict, what it should have been (unknown: not said) and source.",
            ["verdict", "should_be", "source"],
            registry=registry,
        )
        self.feedback_refused = Counter(
            "guard_feedback_refused", "Reports refused by reason.", ["reason"], registry=registry
        )
        for reason in ("unknown", "capped", "no_room"):
            self.feedback_refused.labels(reason)

        # a second model on a share of the traffic
        self.shadow_info = Gauge(
            "guard_shadow_info", "1 for the model that shadows the champion.", ["model_version"], registry=registry
        )
        self.shadow_verdicts = Counter(
            "guard_shadow_verdicts",
            "Texts judged twice by the champion's and the shadow's category.",
            ["model_version", "champion", "shadow"],
            registry=registry,
        )
        self.shadow_requests = Counter(
            "guard_shadow_requests", "Requests drawn for the shadow by fate.", ["fate"], registry=registry
        )
        for fate in ("scored", "dropped", "failed"):
            self.shadow_requests.labels(fate)

        self._add_loop(registry)

    def _add_loop(self, registry: CollectorRegistry) -> None:
        """Add what is read from the store at a scrape."""
        self.store_up = Gauge("guard_store_up", "1 when the store answers.", registry=registry)
        self.messages = Gauge("guard_messages", "Stored messages by state.", ["state"], registry=registry)
        self.pool_age_seconds = Gauge("guard_pool_age_seconds", "Age of the oldest pooled message.", registry=registry)
        self.labels = Gauge(
            "guard_labels", "Labelled messages by category (unclear: nobody can tell).", ["category"], registry=registry
        )
        self.labels_spent = Gauge(
            "guard_labels_spent", "Decisions counted against the labelling budget.", registry=registry
        )
        self.variations = Gauge(
            "guard_variations", "LLM variations of all cycles by fate.", ["fate"], registry=registry
        )
        self.variation_checks = Gauge(
            "guard_variation_checks",
            "Variations whose label stands by what people said of them (unchecked: nothing yet).",
            ["category", "verdict"],
            registry=registry,
        )
        self.variations_holding = {
            end: Gauge(
                f"guard_variations_holding{end}",
                f"Of the variations that the judging LLM accepted, the share that people find to hold{which}.",
                ["category"],
                registry=registry,
            )
            for end, which in (
                ("", "; absent where too few were checked"),
                ("_lower", ": lower end of the 95 % interval"),
                ("_upper", ": upper end of the 95 % interval"),
            )
        }
        self.cycles = Gauge("guard_cycles", "Cycles by state.", ["state"], registry=registry)
        self.cycle_stage_seconds = Gauge(
            "guard_cycle_stage_seconds", "Time the open cycle has spent in its stage.", ["stage"], registry=registry
        )
        self.cycle_due_seconds = Gauge(
            "guard_cycle_due_seconds",
            "Time people have left for the open batch; below 0 the cycle should have gone on.",
            ["stage"],
            registry=registry,
        )
        self.generation = Gauge(
            "guard_generation",
            "1 for how the latest stage of LLM variations ended: complete, ended_early, skipped.",
            ["outcome"],
            registry=registry,
        )
        self.batch = Gauge("guard_batch", "Picks of the latest batch by state.", ["state"], registry=registry)
        self.review_conflicts = Gauge(
            "guard_review_conflicts", "Messages that people differ about and nobody has settled.", registry=registry
        )
        self.review_kappa = Gauge(
            "guard_review_kappa",
            "Fleiss' kappa of the reviewers (bound: estimate, or an end of its 95 % interval); absent below ten messages.",
            ["bound"],
            registry=registry,
        )
        self.gate = Gauge(
            "guard_gate", "What the gate measured of a challenger.", ["measure", "model_version"], registry=registry
        )
        self.rates = {
            name + end: Gauge(
                f"guard_class_{name}{end}", f"{says}{which}.", ["category", "model_version"], registry=registry
            )
            for name, says in _RATES.items()
            for end, which in (
                ("", ", weighed back to all traffic; absent where there are too few labels"),
                ("_lower", ": lower end of the 95 % interval"),
                ("_upper", ": upper end of the 95 % interval"),
            )
        }
        self.class_labels = Gauge(
            "guard_class_labels",
            "Labelled messages of a category that its error rates rest on.",
            ["category", "model_version"],
            registry=registry,
        )
        self.reviewed_errors = Gauge(
            "guard_reviewed_errors",
            "Labels that differ from the verdict, by label and verdict; picked on purpose, so no rate.",
            ["category", "predicted"],
            registry=registry,
        )
        self.drift = Gauge(
            "guard_drift",
            "Population stability index of the last 7 days against those before them.",
            ["measure"],
            registry=registry,
        )
        self.learner_lease_seconds = Gauge(
            "guard_learner_lease_seconds",
            "Time left of the learner's lease; below 0 nobody is learning.",
            registry=registry,
        )

    def observe_run(self, *, waited_s: float, ran_s: float, windows: int) -> None:
        """Take note of one run of the batcher."""
        self._queue_seconds.observe(waited_s)
        self._run_seconds.observe(ran_s)
        self.run_windows.observe(windows)

    def observe_verdicts(self, verdicts: Iterable[Verdict], actions: Mapping[Category, Action]) -> None:
        """Count verdicts."""
        for verdict in verdicts:
            self.verdicts.labels(verdict.category, actions[verdict.category]).inc()
            self.uncertainty.labels(verdict.category).observe(verdict.uncertainty)

    def set_model(self, manifest: Manifest, artefact: str) -> None:
        """Name the model in service, and which of its artefacts serves."""
        self.model_info.clear()
        self.model_info.labels(manifest.version, manifest.backbone, artefact, manifest.parent or "").set(1)

    def set_shadow(self, version: str | None) -> None:
        """Name the model that shadows the champion, if there is one."""
        self.shadow_info.clear()
        if version is not None:
            self.shadow_info.labels(version).set(1)

    def set_limits(self, settings: GuardSettings) -> None:
        """Show the limits that queue and pool are measured against."""
        self.queue_max_tokens.set(settings.max_queue_tokens)
        self.pool_max_messages.set(settings.pool_max_messages)

    def set_generation(self, figures: Mapping[str, Any]) -> None:
        """Say how a stage of variations ended; its reason is in the cycle's figures and the learner's log."""
        ended = "ended_early" if figures.get("ended_early") else "skipped" if "skipped" in figures else "complete"
        for outcome in ("complete", "ended_early", "skipped"):
            self.generation.labels(outcome).set(outcome == ended)

    def set_agreement(self, kappa: Kappa | None) -> None:
        """Set how alike people label; what is not known is absent."""
        self.review_kappa.clear()
        if kappa is not None:
            for bound, value in (("estimate", kappa.value), ("lower", kappa.low), ("upper", kappa.high)):
                self.review_kappa.labels(bound).set(value)

    def set_states(self, messages: Mapping[MessageState, int], cycles: Mapping[CycleState, int]) -> None:
        """Set the numbers of messages and cycles."""
        for message_state, number in messages.items():
            self.messages.labels(message_state).set(number)
        for cycle_state, number in cycles.items():
            self.cycles.labels(cycle_state).set(number)

    def set_gate(self, version: str, measures: Mapping[str, Any]) -> None:
        """Set what the gate measured of the latest challenger."""
        self.gate.clear()
        for measure, value in measures.items():
            if isinstance(value, int | float):
                self.gate.labels(measure, version).set(value)

    def set_figures(self, figures: Sequence[Estimated]) -> None:
        """Set error rates and drift; what is not known is absent, never 0."""
        for gauge in (*self.rates.values(), self.class_labels, self.drift):
            gauge.clear()
        for one in figures:
            if one.category is None or one.model_version is None:
                if one.value is not None:
                    self.drift.labels(one.measure).set(one.value)
                continue
            for end, value in (("", one.value), ("_lower", one.low), ("_upper", one.high)):
                if value is not None:
                    self.rates[one.measure + end].labels(one.category, one.model_version).set(value)
            if one.measure == "miss_rate":  # whose denominator is all that is of the category
                self.class_labels.labels(one.category, one.model_version).set(one.labels)

    def set_holding(self, found: Sequence[Holding]) -> None:
        """Set how many variations hold; a share with too few checks is absent, never 0."""
        for gauge in (self.variation_checks, *self.variations_holding.values()):
            gauge.clear()
        for one in found:
            for verdict in ("holds", "flips", "unclear", "unchecked"):
                self.variation_checks.labels(one.category, verdict).set(getattr(one, verdict))
            if one.rate is not None:
                for end, value in (("", one.rate.share), ("_lower", one.rate.low), ("_upper", one.rate.high)):
                    self.variations_holding[end].labels(one.category).set(value)

    def set_reviewed_errors(self, errors: Mapping[tuple[Category, Category], int]) -> None:
        """Set how many labels differ from their verdict, by both; there from the first scrape."""
        for label in Category:
            for verdict in Category:
                if label is not verdict:
                    self.reviewed_errors.labels(label, verdict).set(errors.get((label, verdict), 0))

    def render(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self.registry)
