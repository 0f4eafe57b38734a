"""Reader, writer and samples that the manifest names."""
