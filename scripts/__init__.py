"""Programs for those who maintain codecvq."""
