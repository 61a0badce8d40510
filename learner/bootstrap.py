"""The corpus alone into the first champion: build ▶ gate ▶ promote; in a minute, or with the whole recipe."""

from typing import Final

from guard.bundle import Bundle
from guard.errors import BadConfiguration
from guard.exports import Exports
from learner import challenger
from learner.dataset import Corpus
from learner.gate import Judgement, judge
from learner.progress import Progress
from learner.promote import promote
from learner.settings import LearnerSettings

_BY: Final = "bootstrap"
_TUNED: Final = "tuning_worth"  # a figure of every model for which fine-tuning was considered


def bootstrap(settings: LearnerSettings, exports: Exports, progress: Progress, *, quick: bool = False) -> str:
    """Make the first champion and return its version; where there is a champion already, return that.

    Args:
        settings: Corpus, backbone and recipe.
        exports: Where it is published.
        progress: Told how far it is.
        quick: Whether fine-tuning is left to `refine`: something has to serve meanwhile.

    Raises:
        BadConfiguration: The corpus or the backbone cannot be used, or the model made of them fails the gate; it stays
            in `exports/` to be looked at, and nothing serves it.
        BrokenExport: The ONNX does not do what the network does.
    """
    champion = exports.champion()
    if champion is not None:
        return champion
    if quick and settings.fine_tune_epochs is None:
        settings = settings.model_copy(update={"tournament_s": 0.0})
    version, judgement = _judged(settings, exports, progress, parent=None)
    if not promote(exports, judgement, version, expected=None, by=_BY):
        raise BadConfiguration(
            f"Export {version} is no champion: {'; '.join(judgement.reasons)}. Mend the corpus in "
            f"{settings.corpus_dir}, or promote it by hand with `guard models promote {version}`."
        )
    return version


def refine(settings: LearnerSettings, exports: Exports, progress: Progress) -> str | None:
    """Follow a quick first champion with one of the whole recipe; return its version if it was promoted.

    Nobody has relied on the quick one for long, so the limit on changed answers does not hold: macro-F1 on the gate set
    must not be lower, and no must-pass message may fail. It is tried once for each quick champion.

    Raises:
        BadConfiguration: The corpus or the backbone cannot be used.
        BrokenExport: The ONNX does not do what the network does.
        Conflict: Another champion was promoted meanwhile.
    """
    champion = exports.champion()
    if champion is None or settings.fine_tune_epochs is not None or settings.tournament_s == 0:
        return None
    manifest = exports.manifest(champion)
    ours = any(move.version == champion and move.by == _BY for move in exports.promotions())
    if not ours or _TUNED in manifest.metrics or _tried(exports, champion):
        return None
    version, judgement = _judged(settings, exports, progress, parent=champion)
    better = exports.manifest(version).metrics["macro_f1"] >= manifest.metrics.get("macro_f1", 0.0)
    if not better or not promote(exports, judgement, version, expected=champion, by=_BY):
        return None
    return version


def _judged(
    settings: LearnerSettings, exports: Exports, progress: Progress, *, parent: str | None
) -> tuple[str, Judgement]:
    corpus = Corpus.load(settings.corpus_dir)
    built = challenger.build(settings, exports, corpus, [], parent=parent, cycle_id=None, progress=progress)
    version = built.version
    progress("gate", 0, 1)
    judgement = judge(None, Bundle.load(exports, version), corpus, settings)
    progress("gate", 1, 1)
    return version, judgement


def _tried(exports: Exports, champion: str) -> bool:
    manifests = (exports.manifest(version) for version in exports.versions())
    return any(manifest.parent == champion and manifest.cycle_id is None for manifest in manifests)
