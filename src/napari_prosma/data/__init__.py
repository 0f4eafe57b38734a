"""What users have: files, folders and layers as cases. Imports no torch."""
