"""The collections of requests in docs/collections, made from one table of examples."""
