"""The Open Inference Protocol v2 with Triton's extensions, for clients that others wrote."""
