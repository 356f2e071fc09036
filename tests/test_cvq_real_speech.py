"""Real speech: `.cvq` files return its codes in every entropy mode, in one chunk, in chunks, from a pipe."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from test_cvq_chunks import OnlyReads, written

import codecvq
from codecvq.bitstream import CvqReader, pack, unpack
from codecvq.data import open_corpus

CLIP_S = 0.75


def clips(rate: int) -> Iterator[np.ndarray]:
    """The recordings of `prompts`, cut into clips of at most 0.75 s: `[S]` each."""
    for recording in open_corpus("prompts"):
        samples = recording.read(rate)
        yield from np.split(samples, range(int(CLIP_S * rate), len(samples), int(CLIP_S * rate)))


@pytest.mark.slow
def test_every_clip_has_the_same_codes_and_length():
    codec = codecvq.load("speech-16k")
    count = 0
    for samples in clips(codec.sample_rate):
        codes = codec.encode(torch.from_numpy(samples)[None, None])[0].numpy()
        cuts = range(0, codes.shape[1], 7)
        for entropy in (False, True, "auto"):
            whole = pack(codec, codes, len(samples), entropy)
            pieces = written(codec, codes, len(samples), cuts=cuts, entropy=entropy, chunk_s=0.2)
            for data in (whole, pieces):
                packet = unpack(data, codec)
                assert np.array_equal(packet.codes, codes)
                assert packet.num_samples == len(samples)
                reader = CvqReader(OnlyReads(data), codec)
                parts = [chunk.codes[0] for chunk in reader]
                assert np.array_equal(np.concatenate(parts, axis=1), codes)
                assert reader.num_samples == len(samples)
        count += 1
    assert count >= 500
