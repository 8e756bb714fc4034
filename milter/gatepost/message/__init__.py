"""The message: its header, body and MIME structure, to read, and to edit as a milter can. Bytes stay as they came."""
