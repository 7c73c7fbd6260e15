"""Sensorium's service: files in over HTTP, answers of ONNX models out."""
