"""From the configuration file to plugins that can run: everything is checked here, with file and line."""
