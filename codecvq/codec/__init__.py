"""Codecs: encoder, quantizer and decoder as one model, its files and hashes; and wrapped existing codecs."""

from codecvq.codec.codec import Codec, Reconstruction
from codecvq.codec.loading import load, load_folder
from codecvq.codec.lossy import decode_with_loss
from codecvq.codec.streams import StreamDecoder, StreamEncoder
from codecvq.codec.wrapped import WrappedCodec

__all__ = [
    "Codec",
    "Reconstruction",
    "StreamDecoder",
    "StreamEncoder",
    "WrappedCodec",
    "decode_with_loss",
    "load",
    "load_folder",
]
