"""Request traces and synthetic traffic."""
