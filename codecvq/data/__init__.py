"""Data: clips, manifests, corpora, and the segments that training takes from them."""
