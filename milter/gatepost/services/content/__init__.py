"""What is in a message: parts, names, types and links, as a forgiving reader would find them."""
