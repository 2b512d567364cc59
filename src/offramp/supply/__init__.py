"""Structural Monte-Carlo of chip supply, demand and prices."""
