"""Finding, reading, writing and resampling audio files, as float32 arrays `[C, S]` in [-1, 1].

Short recordings are processed whole (`read_audio`, `to_mono`, `resample`, `write_audio`), recordings of any
length in pieces (`read_blocks`, `MonoMixer`, `Resampler`, `audio_file`), with the same samples. `PcmReader`
and `PcmWriter` read and write audio on pipes.
`cut_at_silences` cuts a long recording into several short ones.

soundfile (libsndfile) reads WAV, FLAC, Ogg, Opus, AIFF, NIST and others. PyAV (FFmpeg) reads the rest: MP3,
m4a, aac, webm, wma, and G.722, a raw stream without a header. Both have wheels that include their libraries.
torchaudio is not used, because it reads no audio by itself since version 2.9.

Any exception that a library raises for an invalid file becomes an `AudioError` with a message of one line.
`codecvq.audio.limits` has the limits on sample rates, channels, durations and memory.
"""

from codecvq.audio.files import AUDIO_SUFFIXES, SEEKABLE_SUFFIXES, find_audio_files
from codecvq.audio.limits import MAX_BYTES, FloatArray
from codecvq.audio.mono import MonoMixer, to_mono
from codecvq.audio.pcm import PCM_FORMATS, PcmReader, PcmWriter
from codecvq.audio.pieces import cut_at_silences
from codecvq.audio.reading import Audio, duration_s, read_audio, read_blocks
from codecvq.audio.resampling import Resampler, resample
from codecvq.audio.writing import WRITTEN_FORMATS, AudioFileWriter, audio_file, write_audio

__all__ = [
    "AUDIO_SUFFIXES",
    "MAX_BYTES",
    "PCM_FORMATS",
    "SEEKABLE_SUFFIXES",
    "WRITTEN_FORMATS",
    "Audio",
    "AudioFileWriter",
    "FloatArray",
    "MonoMixer",
    "PcmReader",
    "PcmWriter",
    "Resampler",
    "audio_file",
    "cut_at_silences",
    "duration_s",
    "find_audio_files",
    "read_audio",
    "read_blocks",
    "resample",
    "to_mono",
    "write_audio",
]
