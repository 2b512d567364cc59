"""Would a training run finish, when, and with what probability."""
