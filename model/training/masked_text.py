"""The network that learns to tell masked ids: a text encoder with a head that goes when it has learned.

Source: BERT's masked language modelling, arXiv 1810.04805; its code has the head so, with the embedding for the weights
of the last layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import initialise, make_norm
from model.text_encoder import TextEncoder, TextEncoderShape


class MaskedText(nn.Module):
    """Text ids (B, T), of which some are hidden, to logits of those.

    A SentencePiece vocabulary has no piece for the mask. It gets a vector of its own, which is no row of the embedding
    and is not saved: so the prior begins with an embedding that has one meaning for each id. UNKNOWN in its place would
    come to mean any word, and then stand in captions for a character that the vocabulary lacks.
    """

    def __init__(self, shape: TextEncoderShape):
        super().__init__()
        self.shape = shape
        self.text_encoder = TextEncoder(shape)
        self.transform = nn.Sequential(
            nn.Linear(shape.width, shape.width), nn.GELU(), make_norm(shape.norm, shape.width)
        )
        self.bias = nn.Parameter(torch.zeros(shape.text_vocabulary_size))
        self.mask = nn.Parameter(torch.empty(shape.width))
        initialise(self, shape.num_encoder_layers)
        nn.init.normal_(self.mask, std=shape.width**-0.5)  # as a row of the embedding

    def forward(self, read_ids: Tensor, is_masked: Tensor, places: Tensor) -> Tensor:
        """Return logits float32 (N, V) of ids (B, T) at N places, int64 (N), counted row after row."""
        embedded = self.text_encoder.embedding(read_ids)
        embedded = torch.where(is_masked[..., None], self.mask.to(embedded.dtype), embedded)
        states = self.text_encoder(read_ids, embedded).states.flatten(0, 1)[places]
        return F.linear(self.transform(states), self.text_encoder.embedding.weight, self.bias).float()
