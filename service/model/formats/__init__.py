"""Formats: checks and conversions of image and audio files, around the libraries that decode."""
