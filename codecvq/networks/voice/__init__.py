"""Source-filter model of speech: measured pitch, its code in the latents, and a decoder with a source."""
