"""Codecs: encoder, quantizer and decoder as one model, its files, and its identity."""

from codecvq.codec.codec import Codec, Reconstruction, load, load_folder

__all__ = ["Codec", "Reconstruction", "load", "load_folder"]
