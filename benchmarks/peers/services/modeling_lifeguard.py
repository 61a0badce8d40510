"""Lifeguard's network for `transformers`, whatever its version: BERT, mean pooling of some layers, a linear head.

It lies beside the weights, where `AutoModelForSequenceClassification(..., trust_remote_code=True)` finds it. No stock
class computes this network: they read the last layer's first token alone.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class LifeguardForSequenceClassification(BertPreTrainedModel):
    """The network of `learner.network`, its temperature folded into the head."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = BertModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(len(config.pooled_layers) * config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Return `(n, 6)` logits."""
        assert input_ids is not None
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        states = self.bert(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            output_hidden_states=True,
            return_dict=True,
        ).hidden_states
        mask = attention_mask.unsqueeze(-1).to(states[0].dtype)
        count = mask.sum(dim=1)
        pooled = [(states[layer] * mask).sum(dim=1) / count for layer in self.config.pooled_layers]
        unit = torch.cat([functional.normalize(layer, dim=1) for layer in pooled], dim=1)
        return SequenceClassifierOutput(logits=self.classifier(unit))
