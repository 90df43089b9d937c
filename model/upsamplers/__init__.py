"""Pictures of an image tokenizer to larger ones."""

from model.upsamplers.upsampler import Upsampler, load_upsampler, save_upsampler
from model.upsamplers.wdsr import WDSR, WDSRShape

__all__ = ["WDSR", "Upsampler", "WDSRShape", "load_upsampler", "save_upsampler"]
