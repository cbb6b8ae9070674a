"""REST and WebSocket: orders in, every order's events out, resumable after any of them."""
