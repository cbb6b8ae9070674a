"""Reading the record back, without writing: orders replayed, and everything that is stored verified."""
