"""Who may do what over the API: keys, tickets, owners of orders, origins, and limits per key and address."""
