"""Limits that all parts of codecvq share."""

MAX_CODEBOOKS = 1024  # of a quantizer, a codec or a .cvq file
MAX_CODEBOOK_SIZE = 2**62  # codes are int64
#: Hz. Below 1 kHz there is no speech, and resampling would multiply the number of samples; 768 kHz is the
#: highest rate of audio converters.
SAMPLE_RATES = (1_000, 768_000)
MAX_AUDIO_S = 3600.0  # seconds of audio read, encoded or decoded as a whole; blocks have no such limit
