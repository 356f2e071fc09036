"""The command line: one thin function a verb. Nothing here imports torch before a verb runs."""
