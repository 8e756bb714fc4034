"""What runs and operates the daemon: log, trace, service, Postfix configuration, command line."""
