"""From a checkpoint to files that other programs run: ONNX, and packages for bioimage.io."""
