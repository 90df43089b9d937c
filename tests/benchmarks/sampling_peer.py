"""parti-pytorch's decoder: for each line, a number of tokens so far, the seconds that its loop takes for the next.

Run in an environment that has it: see sampling.py. Of the package the decoder's module alone is imported: the others
ask for T5's weights and for what trains an image tokenizer. What its `generate` does for one token is called as it is.
"""

import json
import sys
import time
import types
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch


class Codes(torch.nn.Module):
    """What the decoder asks of an image tokenizer."""

    def __init__(self, codebook_size: int):
        super().__init__()
        self.codebook_size, self.image_size = codebook_size, 256
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def get_encoded_fmap_size(self, image_size: int) -> int:
        return image_size // 8


def load() -> Any:
    """Return the decoder's module."""
    package, t5, transforms = (types.ModuleType(name) for name in ("parti_pytorch", "t5", "transforms"))
    found = find_spec("parti_pytorch")
    assert found is not None
    package.__path__ = list(found.submodule_search_locations or [])
    vars(t5).update(t5_encode_text=len, get_encoded_dim=len, DEFAULT_T5_NAME="")  # called, but not for what counts
    torchvision = types.ModuleType("torchvision")
    vars(torchvision)["transforms"] = transforms
    sys.modules |= {"parti_pytorch": package, "parti_pytorch.t5": t5}
    sys.modules |= {"torchvision": torchvision, "torchvision.transforms": transforms}
    return import_module("parti_pytorch.parti_pytorch")


def main() -> None:
    torch.set_num_threads(1)
    settings, peer = json.loads(sys.argv[1]), load()
    width = settings["width"]
    model = peer.Parti(
        dim=width, depth=settings["num_decoder_layers"], heads=settings["num_heads"],
        dim_head=width // settings["num_heads"], ff_mult=settings["hidden"] // width,
        vae=Codes(settings["codebook_size"]), text_embed_dim=width, t5_name="",
    ).eval()  # fmt: skip
    text = torch.randn(settings["batch"], settings["text_length"], width)
    mask = torch.ones(text.shape[:2], dtype=torch.bool)
    for line in sys.stdin:
        tokens = torch.randint(0, settings["codebook_size"], (settings["batch"], int(line)))
        started = time.process_time()
        with torch.no_grad():
            logits = model.forward_with_cond_scale(
                text_token_embeds=text, text_mask=mask, image_token_ids=tokens, cond_scale=settings["guidance"]
            )[:, -1]
            peer.gumbel_sample(peer.top_k(logits, thres=0.9))
        print(time.process_time() - started, flush=True)


if __name__ == "__main__":
    main()
