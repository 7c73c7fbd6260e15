"""Sensorium beside what users would pick instead: the same graphs, files and client, in one run."""
