"""The app port: bytes from clients in, calls to the pipeline, bytes back out."""
