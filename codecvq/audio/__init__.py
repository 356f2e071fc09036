"""Audio files as float32 arrays `[C, S]` in [-1, 1], and back: reading, writing, resampling, finding.

soundfile (libsndfile) reads what it can: WAV, FLAC, Ogg, Opus, AIFF, NIST ... PyAV (FFmpeg) reads the rest:
MP3, m4a, aac, webm, wma, and G.722, which is a bare stream without a header. Both come as wheels with their
libraries inside. torchaudio is not used: from 2.9 on it reads no audio by itself.

A file that is no audio is a user's error: whatever a library raises about it becomes an `AudioError` of one
line. `codecvq.audio.limits` has the bounds on rates, channels, lengths and memory.
"""

from codecvq.audio.files import AUDIO_SUFFIXES, SEEKABLE_SUFFIXES, find_audio_files
from codecvq.audio.limits import MAX_BYTES, FloatArray
from codecvq.audio.mono import to_mono
from codecvq.audio.reading import Audio, duration_s, read_audio
from codecvq.audio.resampling import resample
from codecvq.audio.writing import WRITTEN_FORMATS, write_audio

__all__ = [
    "AUDIO_SUFFIXES",
    "MAX_BYTES",
    "SEEKABLE_SUFFIXES",
    "WRITTEN_FORMATS",
    "Audio",
    "FloatArray",
    "duration_s",
    "find_audio_files",
    "read_audio",
    "resample",
    "to_mono",
    "write_audio",
]
