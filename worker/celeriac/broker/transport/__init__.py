"""What we do on a broker's own terms, below kombu's common ground."""
