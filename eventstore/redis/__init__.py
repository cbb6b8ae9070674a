"""The event store on Redis or Valkey, single server or cluster."""
