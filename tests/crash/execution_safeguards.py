"""The safeguards of execution: where each one is, how it is taken out, and the test that then fails."""

from typing import Final

from tests.crash.safeguards import Safeguard

_DECIDE: Final = "app/orders/decide.py"
_PROCESS: Final = "app/execution/process.py"
_SUBMISSION: Final = "app/execution/submission.py"
_SCANNER: Final = "app/execution/scanner.py"
_HERE: Final = "tests/crash/test_execution_safeguards.py::test_"

EXECUTION: Final = [
    Safeguard(
        "version fence",
        "eventstore/redis/lua/append.lua",
        "if version ~= expected or hash ~= ARGV[3] then",
        "if false then",
        f"{_HERE}an_intent_of_a_worker_that_was_overtaken_is_not_recorded",
    ),
    Safeguard(
        "intent before send",
        _SUBMISSION,
        '        self._reach("K6", order_id)\n',
        '        self._reach("K6", order_id)\n        await self._chain.send(message, signature)\n',
        f"{_HERE}nothing_is_sent_before_its_intent_is_recorded",
    ),
    Safeguard(
        "level of the intent's append",
        _PROCESS,
        "level = self._settings.intent_level if sent else None",
        "level = None",
        f"{_HERE}nothing_is_sent_whose_intent_is_not_worth_its_level",
    ),
    Safeguard(
        "level of an intent that was found",
        _PROCESS,
        "            await self._streams.confirm(order, self._settings.intent_level)\n",
        "            pass\n",
        f"{_HERE}an_intent_found_recorded_is_not_sent_before_it_is_worth_its_level",
    ),
    Safeguard(
        "height before status",
        "app/execution/coalesce.py",
        "            seen.update((tx_id, Seen(view.height, view.slot, view.statuses.get(tx_id))) for tx_id in page)\n",
        """\
            then = await self._observe(())
            seen.update((tx_id, Seen(then.height, then.slot, view.statuses.get(tx_id))) for tx_id in page)
""",
        f"{_HERE}a_swap_that_lands_between_two_looks_is_found",
    ),
    Safeguard(
        "one commitment",
        "app/dex/chain/simulated.py",
        "return Observation(height=confirmed, slot=confirmed, statuses=statuses)",
        "return Observation(height=slot, slot=confirmed, statuses=statuses)",
        f"{_HERE}a_swap_that_lands_at_the_last_valid_height_is_not_taken_for_expired",
    ),
    Safeguard(
        "last valid height included",
        _SUBMISSION,
        "case None if seen.height > state.last_valid_height:",
        "case None if seen.height >= state.last_valid_height - 1:",
        f"{_HERE}a_swap_that_lands_at_the_last_valid_height_is_not_taken_for_expired",
    ),
    Safeguard(
        "proof before a further attempt",
        _SUBMISSION,
        "        return PostponeResolve(now_us=self._clock.now_us(), speed_ppm=self._speed_ppm)\n",
        """\
        seen = await self._observer.look(state.tx_id)
        lost = Proof(kind="expired", tx_id=state.tx_id, slot=seen.slot, height=seen.height)
        return EndSubmission(proof=lost, retry=draw)
""",
        f"{_HERE}a_swap_that_is_not_seen_in_time_is_looked_for_again",
    ),
    Safeguard(
        "memo",
        "app/dex/transaction.py",
        '    memo = f"{swap.order_id}:{swap.attempt}"\n',
        '    memo = f"order:{swap.attempt}"\n',
        f"{_HERE}equal_swaps_of_one_blockhash_are_different_transactions",
    ),
    Safeguard(
        "same bytes again",
        _SUBMISSION,
        "            await self._chain.send(base64.b64decode(state.message), from_base58(state.tx_id))\n",
        """\
            from msgspec.structs import replace

            from app.dex.transaction import decode

            blockhash = (await self._blockhashes.get()).hash
            message = encode(replace(decode(base64.b64decode(state.message)), blockhash=blockhash))
            await self._chain.send(message, self._wallet.sign(message))
""",
        f"{_HERE}what_is_sent_again_are_the_same_bytes",
    ),
    Safeguard(
        "bound of attempts",
        _DECIDE,
        "if attempt >= MAX_ATTEMPTS or not",
        "if not",
        f"{_HERE}attempts_are_limited_and_each_keeps_the_first_ones_limit",
    ),
    Safeguard(
        "anchor of the limit",
        _DECIDE,
        "    if anchored is not None:\n        return anchored\n",
        "",
        f"{_HERE}attempts_are_limited_and_each_keeps_the_first_ones_limit",
    ),
    Safeguard(
        "no decision after the end",
        _DECIDE,
        '    return (_cancelled(by, "requested"),) if isinstance(state, Unsent) else ()\n',
        '    return (_cancelled(by, "requested"),)\n',
        f"{_HERE}what_has_ended_stays_as_it_is",
    ),
    Safeguard(
        "no event after the end",
        "app/orders/evolve.py",
        "        case _, OrderCancelled(code=code) if isinstance(state, Unsent):\n",
        "        case _, OrderCancelled(code=code):\n",
        f"{_HERE}what_has_ended_stays_as_it_is",
    ),
    Safeguard(
        "no end while a swap is on its way",
        _DECIDE,
        "isinstance(state, Unsent) and is_over(state.terms, now_us)",
        "isinstance(state, Unsent | Live) and is_over(state.terms, now_us)",
        f"{_HERE}an_order_whose_time_is_over_waits_for_the_proof_of_its_swap",
    ),
    Safeguard(
        "no cancellation while a swap is on its way",
        _DECIDE,
        "        return (CancelRequested(by=by),)\n",
        '        return (_cancelled(by, "requested"),)\n',
        f"{_HERE}an_order_cancelled_after_its_swap_was_signed_ends_as_the_chain_says",
    ),
    Safeguard(
        "no attempt after a cancellation",
        _DECIDE,
        "    if isinstance(state, CancelPending):\n        return (\n",
        "    if False:\n        return (\n",
        f"{_HERE}an_order_cancelled_after_its_swap_was_signed_ends_as_the_chain_says",
    ),
    Safeguard(
        "mark after firing",
        _SCANNER,
        "            end = min(slot, mark + WALK_SLOTS) if pairs else slot\n",
        "            end = min(slot, mark + WALK_SLOTS) if pairs else slot\n"
        "            await self._store.advance_mark(partition, DONE, end)\n",
        f"{_HERE}an_order_that_could_not_be_fired_is_fired_by_the_next_scanner",
    ),
    Safeguard(
        "slot after the rest, for the scanner",
        _SCANNER,
        "range(max(slots.start, state.slot + 1), slots.stop)",
        "slots",
        f"{_HERE}a_trigger_counts_from_the_slot_after_the_one_at_which_the_order_came_to_rest",
    ),
    Safeguard(
        "slot after the rest, for the order",
        _DECIDE,
        "return state.trigger == command.trigger and command.slot > state.slot",
        "return state.trigger == command.trigger",
        f"{_HERE}a_trigger_counts_from_the_slot_after_the_one_at_which_the_order_came_to_rest",
    ),
]
