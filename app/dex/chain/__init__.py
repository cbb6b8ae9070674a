"""The simulated Solana chain: a world of its own beside the engine, with its own clock, sent bytes and ledger."""

from app.dex.chain.simulated import (
    BLOCKHASH_LIFETIME,
    CONFIRMATION_SLOTS,
    NETWORK_FEE,
    SIGNATURES_MAX,
    Blockhash,
    Landed,
    LandedFailed,
    LedgerEntry,
    Observation,
    SimulatedChain,
    Status,
)

__all__ = [
    "BLOCKHASH_LIFETIME",
    "CONFIRMATION_SLOTS",
    "NETWORK_FEE",
    "SIGNATURES_MAX",
    "Blockhash",
    "Landed",
    "LandedFailed",
    "LedgerEntry",
    "Observation",
    "SimulatedChain",
    "Status",
]
