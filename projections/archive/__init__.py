"""The second copy: every event in PostgreSQL, from which Redis is healed and which is read where Redis has let go."""
