"""The database's schema: kept at this code's version, and looked at."""
