"""Limits that every part of codecvq shares."""

MAX_CODEBOOKS = 1024  # of a quantizer, a codec and a .cvq file
MAX_CODEBOOK_SIZE = 2**62  # codes are int64
#: Hz. Below 1 kHz there is no speech, and resampling would multiply the samples; 768 kHz is the highest rate
#: that converters have.
SAMPLE_RATES = (1_000, 768_000)
LONGEST_S = 3600.0  # of audio that is read, coded or decoded at once: a codec takes a recording whole
