"""The settings that suit one model on this machine, by trying them."""
