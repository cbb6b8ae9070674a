"""The log's projections in PostgreSQL: read model and archive of orders, kept up, rebuilt, compared and queried."""
