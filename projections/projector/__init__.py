"""The projector: who owns which partition, what a batch is, and how it is written, once."""
