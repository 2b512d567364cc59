"""Model architectures from Hugging Face config.json."""
