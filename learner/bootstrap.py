"""The corpus alone into the first champion: build ▶ gate ▶ promote."""

from guard.bundle import Bundle
from guard.errors import BadConfiguration
from guard.exports import Exports
from learner import challenger
from learner.dataset import Corpus
from learner.gate import judge
from learner.progress import Progress
from learner.promote import promote
from learner.settings import LearnerSettings


def bootstrap(settings: LearnerSettings, exports: Exports, progress: Progress) -> str:
    """Make the first champion and return its version; where there is a champion already, return that.

    Raises:
        BadConfiguration: The corpus or the backbone cannot be used, or the model made of them fails the gate; it stays
            in `exports/` to be looked at, and nothing serves it.
        BrokenExport: The ONNX does not do what the network does.
    """
    champion = exports.champion()
    if champion is not None:
        return champion
    corpus = Corpus.load(settings.corpus_dir)
    version = challenger.build(settings, exports, corpus, [], parent=None, cycle_id=None, progress=progress)
    progress("gate", 0, 1)
    judgement = judge(None, Bundle.load(exports, version), corpus, settings)
    progress("gate", 1, 1)
    if not promote(exports, judgement, version, expected=None, by="bootstrap"):
        raise BadConfiguration(
            f"Export {version} is no champion: {'; '.join(judgement.reasons)}. Mend the corpus in "
            f"{settings.corpus_dir}, or promote it by hand with `guard models promote {version}`."
        )
    return version
