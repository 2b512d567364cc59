"""Does the accelerator stack phone home, or stop, when it is cut off."""
