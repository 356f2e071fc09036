"""Corpora of plugins: bundled prompts, voice prompts of system packages and games, and torchaudio corpora."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import codecvq_free_speech
import codecvq_torchaudio_corpora
import numpy as np
import pytest
import soundfile
from codecvq_free_speech import asterisk, bundled, festvox_ru, game_recordings
from codecvq_free_speech.held_out import HELD_OUT, HELD_OUT_SPEAKERS
from codecvq_torchaudio_corpora import corpora

from codecvq.audio import write_audio
from codecvq.data.corpus import Clip, Corpus
from codecvq.errors import CorpusError
from codecvq.plugins import Registry

RATE = 16000


@pytest.fixture(scope="module")
def prompts() -> Corpus:
    return Corpus("prompts", tuple(bundled.clips()))


# bundled


def test_the_bundled_corpus_has_eight_to_ten_minutes_in_ten_megabytes(prompts):
    assert 8 * 60 <= prompts.duration_s <= 10 * 60
    assert sum(path.stat().st_size for path in bundled.FOLDER.iterdir()) <= 10_000_000
    assert {path.name for path in bundled.FOLDER.glob("*.flac")} == {clip.path.name for clip in prompts}


def test_the_bundled_corpus_is_balanced_over_four_speakers(prompts):
    assert set(prompts.speakers) == {voice.speaker for voice in asterisk.VOICES} - HELD_OUT_SPEAKERS
    for speaker in prompts.speakers:
        clips = [clip for clip in prompts if clip.speaker == speaker]
        assert sum(clip.duration_s or 0 for clip in clips) == pytest.approx(prompts.duration_s / 4, rel=0.05)
        assert sum(clip.split == "test" for clip in clips) == 6
        assert sum(clip.split == "validation" for clip in clips) == 4


def test_bundled_test_clips_exceed_a_minute_and_have_other_texts_than_training(prompts):
    assert prompts.split("test").duration_s > 60
    trained = {(clip.speaker, asterisk.normalized_words(clip.text)) for clip in prompts.split("train")}
    for clip in (*prompts.split("test"), *prompts.split("validation")):
        assert (clip.speaker, asterisk.normalized_words(clip.text)) not in trained


def test_the_bundled_corpus_has_no_held_out_clips(prompts):
    assert not HELD_OUT & {clip.id for clip in prompts}


def test_every_bundled_clip_has_its_license(prompts):
    licences = {voice.speaker: (voice.language, voice.licence, voice.package) for voice in asterisk.VOICES}
    notice = (bundled.FOLDER / "LICENCE.md").read_text(encoding="utf-8")
    for clip in prompts:
        assert clip.text
        assert (clip.language, clip.licence, clip.columns["package"]) == licences[clip.speaker]
        assert f"`{clip.speaker}`" in notice


def test_bundled_audio_matches_its_manifest(prompts):
    for clip in prompts:
        header = soundfile.info(clip.path)
        assert (header.samplerate, header.channels, header.subtype, header.format) == (
            RATE,
            1,
            "PCM_16",
            "FLAC",
        )
        assert header.frames / RATE == pytest.approx(clip.duration_s, abs=1e-4)
        assert 1.5 <= header.frames / RATE <= 8.0


def test_bundled_clips_have_speech_levels(prompts):
    for clip in prompts.clips[::10]:
        samples = clip.read(RATE)
        assert -30 < 10 * np.log10(np.mean(samples**2)) < -10
        assert 0.1 < np.abs(samples).max() < 0.99
        assert abs(samples.mean()) < 2e-3


def test_missing_bundled_files_are_an_error(tmp_path):
    with pytest.raises(CorpusError, match=r"clips\.jsonl is missing"):
        list(bundled.clips(tmp_path))
    write_audio(tmp_path / "a.flac", np.zeros(8), RATE)
    rows = [{"path": "a.flac"}, {"path": "b.flac"}]
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CorpusError, match="1 of its files"):
        list(bundled.clips(tmp_path))


# system packages


def write_prompt(sounds: Path, voice: str, name: str, seconds: float = 1.0) -> None:
    """Write silence as G.722. The format has no header and every byte is valid, so zero bytes suffice."""
    path = sounds / voice / f"{name}.g722"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(round(seconds * 8000)))


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Two voices in the folder layout of the Debian packages, with the irregularities of the real ones."""
    sounds = tmp_path / "usr/share/asterisk/sounds"
    names = ["vm-whichbox", "vm-which-else", "hello", "hello-again", "digits/1F", "dot"]
    for name in [*names, "beep", "silence/5", "tt-monkeys"]:
        write_prompt(sounds, "en_US_f_Allison", name)
    write_prompt(sounds, "en_US_f_Allison", "short", 0.5)
    write_prompt(sounds, "en_US_f_Allison", "empty", 0)
    write_prompt(sounds, "it_IT_m_Carlo", "ciao")
    lines = [
        "; Core Asterisk Sounds in English",
        "",
        "vm-whichbox: To leave a message, please enter a mailbox number.",
        "vm-which-else: to leave a message; please enter a mailbox number",
        "hello: Hello: is it you?",
        "hello-again: hello -- is it YOU...",
        "digits/1f: one",
        "dot: dot [.]",
        "not-recorded: nothing",
    ]
    doc = tmp_path / "usr/share/doc/asterisk-core-sounds-en"
    doc.mkdir(parents=True)
    (doc / "core-sounds-en.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode("utf-8-sig")))
    return tmp_path


def asterisk_of(root: Path) -> dict[str, Clip]:
    return {clip.id.removeprefix("asterisk/"): clip for clip in asterisk.clips(root)}


def test_only_speech_prompts_are_clips(packages):
    spoken = {"vm-whichbox", "vm-which-else", "hello", "hello-again", "digits/1F", "dot"}
    assert set(asterisk_of(packages)) == {f"allison_smith/{name}" for name in spoken} | {"carlo_flora/ciao"}


def test_prompts_have_their_texts_speakers_and_durations(packages):
    clips = asterisk_of(packages)
    hello = clips["allison_smith/hello"]
    assert (hello.text, hello.speaker, hello.language) == (
        "Hello: is it you?",
        "asterisk/allison_smith",
        "en-US",
    )
    assert (hello.duration_s, hello.licence) == (1.0, "CC-BY-SA-3.0")
    assert len(hello.read(RATE)) == RATE
    assert clips["allison_smith/digits/1F"].text == "one"  # the case differs in the list
    assert clips["allison_smith/dot"].text == "dot"  # the note is not spoken
    assert clips["carlo_flora/ciao"].text == ""  # the package with its texts is not installed


def test_equal_words_share_a_split_and_held_out_prompts_are_test_clips(packages):
    clips = asterisk_of(packages)
    assert clips["allison_smith/hello-again"].split_key == clips["allison_smith/hello"].split_key
    assert clips["allison_smith/hello"].split == ""
    assert clips["allison_smith/vm-whichbox"].split == "test"
    assert clips["allison_smith/vm-which-else"].split == "test"  # the same words as the held-out prompt
    assert clips["carlo_flora/ciao"].split == "test"
    corpus = Corpus("asterisk", tuple(clips.values()), split_by="speaker")
    assert corpus.split_of(clips["carlo_flora/ciao"]) == "test"
    assert "asterisk/carlo_flora" not in (
        *corpus.split("train").speakers,
        *corpus.split("validation").speakers,
    )


@pytest.mark.parametrize("below", [".", "usr/share", "usr/share/asterisk/sounds"])
def test_the_root_may_be_any_parent_folder(packages, below):
    assert set(asterisk_of(packages / below)) == set(asterisk_of(packages))


def test_missing_packages_are_an_error(tmp_path):
    with pytest.raises(CorpusError, match="en_US_f_Allison"):
        list(asterisk.clips(tmp_path))
    with pytest.raises(CorpusError, match="msu_ru_nsh_clunits"):
        list(festvox_ru.clips(tmp_path))


@pytest.mark.parametrize("below", [".", "usr/share/festival/voices/russian/msu_ru_nsh_clunits"])
def test_festvox_has_texts_without_stress_marks(tmp_path, below):
    voice = tmp_path / "usr/share" / festvox_ru.VOICE
    for name in ("ru_0001", "ru_0006"):
        write_audio(voice / "wav" / f"{name}.wav", np.zeros(RATE), RATE)
    (voice / "etc").mkdir()
    (voice / "etc/txt.done.data").write_text('( ru_0001 "Прядь вол+ос, за +ухо." )\n', encoding="utf-8")
    first, second = festvox_ru.clips(tmp_path / below)
    assert (first.id, first.text, first.split) == ("festvox/nsh/ru_0001", "Прядь волос, за ухо.", "")
    assert (second.id, second.text, second.split) == ("festvox/nsh/ru_0006", "", "test")


@pytest.mark.parametrize("below", [".", "usr/share", "usr/share/ktuberling/sounds"])
def test_games_have_one_speaker_per_language_and_exclude_narrowband_clips_and_copies(tmp_path, below):
    sounds = tmp_path / "usr/share/ktuberling/sounds"
    for name, rate, length_s in (
        ("da/hat", 44100, 1.0),
        ("da/eye", 22050, 0.4),
        ("fi/hat", 8000, 1.0),
        ("sr@latin/hat", 44100, 1.0),
        ("sr/hat", 44100, 0.1),
    ):
        write_audio(sounds / f"{name}.wav", np.zeros(round(rate * length_s)), rate)
    found = {clip.id: clip for clip in game_recordings.ktuberling(tmp_path / below)}
    assert set(found) == {"ktuberling/da/hat", "ktuberling/da/eye"}
    assert {clip.speaker for clip in found.values()} == {"ktuberling/da"}
    assert len(found["ktuberling/da/hat"].read(16000)) == 16000
    with pytest.raises(CorpusError, match="klettres"):
        list(game_recordings.klettres(tmp_path))


def test_a_root_named_like_a_game_folder_is_not_a_game_folder(tmp_path):
    """The README unpacks everything into "sounds", and the folder of ktuberling is named "sounds" too."""
    root = tmp_path / "sounds"
    write_tones(root / "usr/share/ktuberling/sounds", ["da/hat"])
    write_tones(root / "usr/share/other", ["noise"])
    assert [clip.id for clip in game_recordings.ktuberling(root)] == ["ktuberling/da/hat"]


def write_tones(folder: Path, names: list[str], rate: int = 22050) -> None:
    """Write tones of one second, each different."""
    for k, name in enumerate(names):
        tone = 0.1 * np.sin(np.arange(rate) * (0.01 + 0.001 * k))
        write_audio(folder / f"{name}.wav", tone.astype(np.float32), rate)


@pytest.mark.parametrize("below", [".", "usr/share", "usr/share/tuxpaint/stamps"])
def test_tux_paint_clips_have_the_texts_of_each_language(tmp_path, below):
    stamps = tmp_path / "usr/share/tuxpaint/stamps/animals"
    spoken = ["cat_desc", "cat_desc_fr", "cat_desc_pt_BR", "cat_desc_es", "cat", "dog_desc_fr"]
    write_tones(stamps, spoken)
    write_text(stamps / "cat.txt", "A cat.\nfr.utf8=Un chat.\npt_BR.utf8=Um gato.\nfr_CA.utf8=Un minou.\n")
    (stamps / "kitten_desc_fr.wav").write_bytes((stamps / "cat_desc_fr.wav").read_bytes())
    found = {
        clip.id.removeprefix("tuxpaint/animals/"): clip for clip in game_recordings.tuxpaint(tmp_path / below)
    }
    # excluded: the sound of a cat, Spanish (clipped), and a copy
    assert {name: clip.text for name, clip in found.items()} == {
        "cat_desc": "A cat.",
        "cat_desc_fr": "Un chat.",
        "cat_desc_pt_BR": "Um gato.",
        "dog_desc_fr": "",
    }
    brazilian = found["cat_desc_pt_BR"]
    assert (brazilian.language, brazilian.speaker) == ("pt-BR", "tuxpaint/pt_BR")
    assert brazilian.columns["package"] == "tuxpaint-stamps-default"


def test_fish_fillets_has_one_speaker_per_fish_and_language(tmp_path):
    sound = tmp_path / "usr/share/games/fillets-ng/sound"
    lines = ["city/cs/vit-m-nebo", "city/cs/vit-v-proc", "city/nl/vit-m-nebo", "share/jokes/cs/intro"]
    write_tones(sound, [*lines, "city/en/bang", "share/bang"])
    found = {clip.id.removeprefix("fillets/"): clip.speaker for clip in game_recordings.fillets(tmp_path)}
    assert found == {
        "city/cs/vit-m-nebo": "fillets/cs/small_fish",
        "city/cs/vit-v-proc": "fillets/cs/big_fish",
        "city/nl/vit-m-nebo": "fillets/nl/small_fish",
        "share/jokes/cs/intro": "fillets/cs/others",
    }
    packages = {clip.columns["package"] for clip in game_recordings.fillets(sound)}
    assert packages == {"fillets-ng-data-cs", "fillets-ng-data-nl"}


# torchaudio corpora, on folders in the layout of the archives; nothing is downloaded


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_libritts_has_its_official_splits(tmp_path):
    for subset in ("train-clean-100", "dev-clean", "test-other"):
        stem = tmp_path / "LibriTTS" / subset / "19/198" / f"19_198_{len(subset):06}_000000"
        write_audio(stem.with_suffix(".wav"), np.zeros(240), 24000)
        write_text(stem.with_suffix(".normalized.txt"), "Chapter one.\n")
    clips = {clip.columns["subset"]: clip for clip in corpora.libritts(tmp_path)}
    assert {subset: clip.split for subset, clip in clips.items()} == {
        "train-clean-100": "", "dev-clean": "validation", "test-other": "test",
    }  # fmt: skip
    clip = clips["train-clean-100"]
    assert (clip.id, clip.text, clip.speaker) == (
        "libritts/19_198_000015_000000",
        "Chapter one.",
        "libritts/19",
    )
    assert list(corpora.libritts(tmp_path / "LibriTTS")) == [clips[subset] for subset in sorted(clips)]


def test_ljspeech_has_its_normalized_text(tmp_path):
    write_audio(tmp_path / "LJSpeech-1.1/wavs/LJ001-0001.wav", np.zeros(220), 22050)
    write_text(tmp_path / "LJSpeech-1.1/metadata.csv", 'LJ001-0001|"In 1455|"In fourteen fifty-five\n')
    (clip,) = corpora.ljspeech(tmp_path)
    assert (clip.id, clip.text) == ("ljspeech/LJ001-0001", '"In fourteen fifty-five')
    assert clip.path.is_file()


def test_vctk_uses_the_second_microphone(tmp_path):
    folder = tmp_path / "VCTK-Corpus-0.92"
    for microphone in ("mic1", "mic2"):
        write_audio(folder / f"wav48_silence_trimmed/p225/p225_001_{microphone}.flac", np.zeros(480), 48000)
    write_audio(folder / "wav48_silence_trimmed/p315/p315_001_mic2.flac", np.zeros(480), 48000)
    write_text(folder / "txt/p225/p225_001.txt", "Please call Stella.\n")
    first, second = corpora.vctk(tmp_path)
    assert (first.id, first.text, first.speaker) == ("vctk/p225_001", "Please call Stella.", "vctk/p225")
    assert (second.speaker, second.text) == ("vctk/p315", "")


@pytest.mark.parametrize("name", ["libritts", "ljspeech", "vctk"])
def test_a_failed_download_gives_a_one_line_error(tmp_path, monkeypatch, name):
    def refuse(root: Path) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(corpora, f"_download_{name}", refuse)
    with pytest.raises(CorpusError, match=r"download of .* failed: OSError: no route to host"):
        list(getattr(corpora, name)(tmp_path / "new"))


# plugins


@pytest.mark.parametrize(
    ("plugin", "names"),
    [
        (
            codecvq_free_speech,
            {"prompts", "asterisk", "festvox_ru", "klettres", "ktuberling", "tuxpaint", "fillets"},
        ),
        (codecvq_torchaudio_corpora, {"libritts", "ljspeech", "vctk"}),
    ],
)
def test_registered_corpora_load(plugin, names):
    registry = Registry()
    registry.register(plugin, "here")
    registrations = registry.registrations("corpora")
    assert set(registrations) == names
    for (registration,) in registrations.values():
        assert callable(registration.load())
        assert registration.spec.licence
        assert registration.spec.install
    assert registry.failures == []


def test_listing_the_plugins_imports_neither_torch_nor_numpy():
    code = (
        "import sys, codecvq_free_speech as a, codecvq_torchaudio_corpora as b\n"
        "specs = [*a.codecvq_corpora(), *b.codecvq_corpora()]\n"
        "print(len(specs), {'torch', 'numpy', 'torchaudio'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "10 set()"
