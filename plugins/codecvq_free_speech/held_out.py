"""Clips that are never used for training or tuning: their split is always "test", without a hash.

They belong to a fixed comparison set of twenty clips, on which codecs from several sources were measured.
`HELD_OUT` lists its clips from these corpora. (The other clips are by the Italian speaker below, or by
speakers in no corpus here.) The comparison is valid only for codecs that were not trained on these clips.
Clips of the same speaker with the same words are held out too.

The nine Asterisk prompts occur in no other clip: 0.6 s windows of each were correlated with every clip of its
speaker. The largest correlation with another clip is 0.81 (two voiced sounds of one voice); a copy gives 1.
"""

from __future__ import annotations

HELD_OUT = frozenset(
    {
        "asterisk/allison_smith/confbridge-dec-list-vol-out",
        "asterisk/allison_smith/vm-forward-multiple",
        "asterisk/allison_smith/vm-whichbox",
        "asterisk/allison_smith_es/conf-leaderhasleft",
        "asterisk/allison_smith_es/priv-recordintro",
        "asterisk/june_wallack/confbridge-begin-glorious-b",
        "asterisk/june_wallack/vm-instructions",
        "asterisk/maxim_topal/conf-userswilljoin",
        "asterisk/maxim_topal/enter-num-blacklist",
        "festvox/nsh/ru_0006",
        "festvox/nsh/ru_0755",
    }
)

#: Speakers that are used for testing only, to measure codecs on a voice and a language unseen in training.
HELD_OUT_SPEAKERS = frozenset({"asterisk/carlo_flora"})
