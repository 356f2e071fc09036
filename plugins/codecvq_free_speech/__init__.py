"""Free speech corpora without downloads from dataset hosts: a bundled one, and six from Debian packages."""

from __future__ import annotations

from collections.abc import Iterator

from codecvq import CorpusSpec, hookimpl


@hookimpl
def codecvq_corpora() -> Iterator[CorpusSpec]:
    """The corpora `prompts`, `asterisk`, `festvox_ru`, `klettres`, `ktuberling`, `tuxpaint` and `fillets`."""
    yield CorpusSpec(
        name="prompts",
        factory="codecvq_free_speech.bundled:clips",
        summary="eight minutes of telephone prompts by four speakers, 16 kHz; bundled",
        licence="CC-BY-SA-3.0 (en, es, fr), CC-BY-3.0 (ru)",
        install="it is bundled with codecvq: reinstall codecvq.",
    )
    yield CorpusSpec(
        name="asterisk",
        factory="codecvq_free_speech.asterisk:clips",
        summary="two hours of telephone prompts by five speakers, one per language, 16 kHz",
        reference="https://packages.debian.org/source/stable/asterisk-core-sounds",
        licence="CC-BY-SA-3.0 (en, es, fr), CC-BY-3.0 (it, ru)",
        install="apt-get install asterisk-core-sounds-{en,es,fr,it,ru}{-g722,}; or, without being root: "
        "apt-get download the same packages, dpkg-deb -x each into one folder, and give that folder as root.",
    )
    yield CorpusSpec(
        name="festvox_ru",
        factory="codecvq_free_speech.festvox_ru:clips",
        summary="ninety minutes of one Russian man, 16 kHz, with text",
        reference="https://packages.debian.org/stable/festvox-ru",
        licence="BSD-like (Nickolay V. Shmyrev)",
        install="apt-get install festvox-ru; or, without being root: apt-get download festvox-ru, "
        "dpkg-deb -x it into a folder, and give that folder as root.",
    )
    yield CorpusSpec(
        name="klettres",
        factory="codecvq_free_speech.game_recordings:klettres",
        summary="fifty minutes of letters and syllables in twenty languages, by volunteers",
        reference="https://packages.debian.org/stable/klettres-data",
        licence="GPL-2.0-or-later",
        install="apt-get install klettres-data; or, without being root: apt-get download klettres-data, "
        "dpkg-deb -x it into a folder, and give that folder as root.",
    )
    yield CorpusSpec(
        name="ktuberling",
        factory="codecvq_free_speech.game_recordings:ktuberling",
        summary="half an hour of names of things in some twenty languages, by volunteers",
        reference="https://packages.debian.org/stable/ktuberling-data",
        licence="GPL-2.0-or-later",
        install="apt-get install ktuberling-data; or, without being root: apt-get download ktuberling-data, "
        "dpkg-deb -x it into a folder, and give that folder as root.",
    )
    yield CorpusSpec(
        name="tuxpaint",
        factory="codecvq_free_speech.game_recordings:tuxpaint",
        summary="spoken picture descriptions of Tux Paint, in a dozen languages, with text",
        reference="https://packages.debian.org/stable/tuxpaint-stamps-default",
        licence="GPL-2.0-only",
        install="apt-get install tuxpaint-stamps-default; or, without being root: apt-get download "
        "tuxpaint-stamps-default, dpkg-deb -x it into a folder, and give that folder as root.",
    )
    yield CorpusSpec(
        name="fillets",
        factory="codecvq_free_speech.game_recordings:fillets",
        summary="three hours of dialogue between two fish by actors, Czech and Dutch",
        reference="https://packages.debian.org/stable/fillets-ng-data-cs",
        licence="GPL-2.0-only",
        install="apt-get install fillets-ng-data-{cs,nl}; or, without being root: apt-get download the same "
        "packages, dpkg-deb -x each into one folder, and give that folder as root.",
    )
