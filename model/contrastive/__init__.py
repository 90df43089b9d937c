"""How well captions and image tokens belong together: two towers that learned which of them were pairs."""

from model.contrastive.contrastive import Contrastive, ContrastiveShape, Embeddings
from model.contrastive.contrastive_file import LoadedContrastive, load_contrastive, save_contrastive

__all__ = ["Contrastive", "ContrastiveShape", "Embeddings", "LoadedContrastive", "load_contrastive", "save_contrastive"]
