"""What in a repository ties it to CUDA, what replaces it, how much work."""
