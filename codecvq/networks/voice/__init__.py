"""Speech as a voice makes it: its pitch, measured and written in latents, and a decoder with a source."""
