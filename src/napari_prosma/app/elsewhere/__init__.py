"""Training, segmentation and inspection on another machine: a worker of a Dask scheduler."""
