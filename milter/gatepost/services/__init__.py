"""What plugins share: the store, DNS, scanners and lists. Nothing here knows of SMTP or of a plugin by name."""
