"""What training, segmentation and inspection stand on: checkpoints, devices, memory, windows."""
