"""Data in, model folders out: PyTorch networks, exported to ONNX for the service."""
