"""What goes out: formats, tags, and what OpenAPI says of them."""
