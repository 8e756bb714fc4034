"""Lists that rules go by: files with an entry a line, and DNS zones."""
