"""The quick check of a canonical event's hash and place: as strict as the whole one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.canonical import SealedEvent, chain_fault, is_chained, seal

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"))
FRAMES = st.dictionaries(TEXT.filter(str.isascii), TEXT | st.integers(-(2**53) + 1, 2**53 - 1) | st.booleans())
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)


def sealed(frame: dict[str, object], prev: str) -> SealedEvent:
    return seal({**frame, "meta": {"type": "T", "actor": "a"}}, prev)


@given(FRAMES, st.just("") | HASHES)
def test_a_sealed_event_is_chained_to_the_one_before_it_and_to_no_other(frame: dict[str, object], prev: str) -> None:
    event = sealed(frame, prev)
    assert is_chained(event.data, event.hash, prev)
    assert chain_fault(event.data, prev) is None
    assert not is_chained(event.data, event.hash, "0" * 63 + "g")
    assert not is_chained(event.data, "0" * 64, prev)


@given(FRAMES, HASHES, st.data())
def test_no_byte_of_an_event_can_change(frame: dict[str, object], prev: str, data: st.DataObject) -> None:
    event = sealed(frame, prev)
    place = data.draw(st.integers(0, len(event.data) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != event.data[place]))
    changed = event.data[:place] + bytes([byte]) + event.data[place + 1 :]
    assert not is_chained(changed, event.hash, prev)


@pytest.mark.parametrize("text", ['"hash":"%s",', '{"hash":"%s",}'])
def test_a_text_that_looks_like_the_hash_does_not_stand_for_it(text: str) -> None:
    event = sealed({"a": text}, "")
    assert is_chained(event.data, event.hash, "")
    forged = event.data.replace(b'"hash":"', b'"hush":"', 1)
    assert not is_chained(forged, event.hash, "")
