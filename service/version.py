"""The version of Sensorium that this is."""

VERSION = "0.1.0"
