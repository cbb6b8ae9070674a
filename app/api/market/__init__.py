"""The market as clients see it: quotes, tokens and their pools, traded volumes."""
