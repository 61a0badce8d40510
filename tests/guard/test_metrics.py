"""The series: each with its help, its labels from closed sets, and there from the first scrape where they can be."""

import threading

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from guard.decision import Verdict
from guard.metrics import Metrics
from guard.store.states import CycleState, MessageState
from guard.taxonomy import CATEGORIES, GUIDELINES, Action, Category

ACTIONS = {category: GUIDELINES[category].action for category in Category}


def _verdict(category: Category, uncertainty: float = 0.2) -> Verdict:
    return Verdict(category, category is not Category.NOT_HARMFUL, (1.0, 0, 0, 0, 0, 0), uncertainty, 0)


def test_every_series_is_exposed_with_its_help() -> None:
    """Whatever the module declares stands in the exposition, named `guard_…` and explained."""
    metrics = Metrics()
    declared = {m._name for m in vars(metrics).values() if isinstance(m, MetricWrapperBase)}
    exposed = {f.name: f for f in text_string_to_metric_families(metrics.render().decode())}
    assert len(declared) > 20
    assert declared <= exposed.keys()
    for name in declared:
        assert name.startswith("guard_")
        assert exposed[name].documentation.endswith(".")


def test_process_is_measured() -> None:
    """Memory and processor time of the process are there too."""
    exposed = Metrics().render()
    assert b"process_resident_memory_bytes" in exposed
    assert b"process_cpu_seconds_total" in exposed


def test_closed_labels_start_at_zero() -> None:
    """Counters with a closed set of labels are there before anything happened, so that a rate can be taken."""
    metrics = Metrics()
    for category in CATEGORIES:
        for action in Action:
            labels: dict[str, str] = {"category": category, "action": action}
            assert metrics.registry.get_sample_value("guard_verdicts_total", labels) == 0
        assert metrics.registry.get_sample_value("guard_uncertainty_count", {"category": category}) == 0
    for fate in ("new", "repeated", "dropped_full", "dropped_queue", "retried", "same_call"):
        assert metrics.registry.get_sample_value("guard_intake_total", {"fate": fate}) == 0
    for result in ("swapped", "failed"):
        assert metrics.registry.get_sample_value("guard_swaps_total", {"result": result}) == 0


def test_verdicts() -> None:
    """Verdicts count by category and action, and their uncertainty is observed."""
    metrics = Metrics()
    metrics.observe_verdicts([_verdict(Category.SELF_HARM), _verdict(Category.SELF_HARM, 0.95)], ACTIONS)
    value = metrics.registry.get_sample_value
    assert value("guard_verdicts_total", {"category": "self-harm", "action": "escalate"}) == 2
    assert value("guard_uncertainty_bucket", {"category": "self-harm", "le": "0.2"}) == 1
    assert value("guard_uncertainty_bucket", {"category": "self-harm", "le": "1.0"}) == 2


def test_uncertainty_has_no_value_beyond_its_buckets() -> None:
    """The greatest uncertainty falls into the bucket that ends at 1."""
    metrics = Metrics()
    metrics.observe_verdicts([_verdict(Category.SELF_HARM, 1.0)], ACTIONS)
    labels = {"category": "self-harm", "le": "1.0"}
    assert metrics.registry.get_sample_value("guard_uncertainty_bucket", labels) == 1


def test_states() -> None:
    """Messages and cycles are gauged by state."""
    metrics = Metrics()
    metrics.set_states(dict.fromkeys(MessageState, 3), dict.fromkeys(CycleState, 2))
    value = metrics.registry.get_sample_value
    assert all(value("guard_messages", {"state": state}) == 3 for state in MessageState)
    assert all(value("guard_cycles", {"state": state}) == 2 for state in CycleState)


def test_gate_shows_the_latest_challenger_alone() -> None:
    """The next challenger's figures take the place of the one before; what is no number is left out."""
    metrics = Metrics()
    metrics.set_gate("0002", {"macro_f1": 0.7, "flips": 0.01})
    metrics.set_gate("0003", {"macro_f1": 0.8, "note": "held"})
    assert metrics.render().count(b"\nguard_gate{") == 1
    assert metrics.registry.get_sample_value("guard_gate", {"measure": "macro_f1", "model_version": "0003"}) == 0.8


def test_applications_do_not_share_series() -> None:
    """Two applications in one process count apart."""
    one, other = Metrics(), Metrics()
    one.swaps.labels("failed").inc()
    assert other.registry.get_sample_value("guard_swaps_total", {"result": "failed"}) == 0


def test_observed_from_many_threads() -> None:
    """No run is lost when the batcher's threads report at once."""
    metrics = Metrics()

    def report() -> None:
        for _ in range(500):
            metrics.observe_run(waited_s=0.001, ran_s=0.002, windows=3)

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.registry.get_sample_value("guard_run_windows_sum") == 6000
    assert metrics.registry.get_sample_value("guard_stage_seconds_count", {"stage": "queue"}) == 2000
