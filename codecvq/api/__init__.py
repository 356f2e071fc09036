"""The API for plugins: hooks, specs, and the protocols of codecs."""
