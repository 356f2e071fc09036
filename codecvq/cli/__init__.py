"""The command line: one thin function per command. torch is not imported before a command runs."""
