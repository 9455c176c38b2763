"""ONNX operators by subject; a file here is found by itself."""
