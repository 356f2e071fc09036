"""Limits that every part of codecvq shares."""

MAX_CODEBOOKS = 1024  # of a quantizer, a codec and a .cvq file
MAX_CODEBOOK_SIZE = 2**62  # codes are int64
SAMPLE_RATES = (1000, 768_000)  # Hz, the least and the greatest: beyond them, resampling makes any length
