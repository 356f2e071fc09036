"""Clips that nothing is ever trained on or tuned with, whatever their hash says: their split is "test".

They are those of a fixed comparison set of twenty clips on which codecs of several makers were measured, the
ones that come from these corpora. (Its other clips are of the Italian speaker below, or of speakers that no
corpus here has.) The comparison means something only while it stays unseen. Clips by the same speaker with
the same words are held out with them. That the recordings of the nine prompts among them occur nowhere else
was checked by sliding 0.6 s windows of each over every clip of its speaker: the largest correlation with
another clip is 0.81, two voiced sounds of one voice, where a copy would give 1.
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

#: Speakers that are only ever tested: how a codec treats a voice and a language that it has never heard.
HELD_OUT_SPEAKERS = frozenset({"asterisk/carlo_flora"})
