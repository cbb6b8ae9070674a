"""What every client that resumes must do, as one suite that the Python and the JavaScript client pass."""
