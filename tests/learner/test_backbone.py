"""What `learner.backbone` makes of a name."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from guard.errors import BadConfiguration
from learner.backbone import load

transformers = import_module("transformers")  # its classes have untyped constructors


def test_minilm_needs_no_network(no_network: None) -> None:
    """The default backbone loads with every connection refused, with its sizes and its pad token."""
    backbone = load("minilm")
    assert (backbone.name, backbone.hidden_size, backbone.limit_tokens) == ("minilm", 384, 512)
    assert (backbone.pad_id, backbone.pad_token) == (0, "[PAD]")
    assert not backbone.encoder.training


def test_a_folder_is_a_backbone(distilbert: Path, no_network: None) -> None:
    """A folder loads without the network and keeps its path as its name."""
    backbone = load(str(distilbert))
    assert backbone.name == str(distilbert)
    assert (backbone.hidden_size, backbone.limit_tokens, backbone.pad_id) == (96, 128, 0)


def test_roberta_counts_positions_from_its_pad_id(roberta: Path) -> None:
    """A RoBERTa of 130 positions reads 128 tokens, and reading that many works."""
    backbone = load(str(roberta))
    assert (backbone.limit_tokens, backbone.pad_id, backbone.pad_token) == (128, 1, "<pad>")
    ids = torch.full((1, backbone.limit_tokens), 7)
    with torch.inference_mode():
        assert backbone.encoder(input_ids=ids).last_hidden_state.shape == (1, 128, 96)


def test_the_tokenizer_comes_plain(distilbert: Path) -> None:
    """The tokenizer that is exported neither pads nor truncates; the one for training truncates."""
    backbone = load(str(distilbert))
    text = "joke " * 100
    assert len(Tokenizer.from_str(backbone.tokenizer_json).encode(text).ids) > 100
    assert len(backbone.tokenizer(48).encode(text).ids) == 48


def test_windows_must_fit_the_encoder(distilbert: Path) -> None:
    """More tokens than the encoder has positions is an error that names setting and limit."""
    with pytest.raises(BadConfiguration, match=r"LEARNER_MAX_TOKENS=129.*at most 128"):
        load(str(distilbert)).tokenizer(129)


@pytest.mark.parametrize("name", ["nobody/nothing-of-the-kind", "/no/such/folder", "not a name!"])
def test_an_unknown_name_says_what_would_work(name: str, no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads nowhere is an error that names the setting and what it takes."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it tries again for 46 s
    with pytest.raises(BadConfiguration, match=r"LEARNER_BACKBONE=.*minilm"):
        load(name)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    """Weights alone are no backbone."""
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(BadConfiguration, match=r"LEARNER_BACKBONE="):
        load(str(tmp_path))


def test_an_architecture_that_cannot_be_exported_is_refused(distilbert: Path, tmp_path: Path) -> None:
    """Another architecture is named, together with those that work."""
    for file in distilbert.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = transformers.ElectraConfig(
        vocab_size=300, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    transformers.ElectraModel(config).save_pretrained(tmp_path)
    with pytest.raises(BadConfiguration, match=r"'electra'.*bert, distilbert, roberta"):
        load(str(tmp_path))
