"""How this process takes part in systemd: notices, watchdog, kept descriptors, credentials."""
