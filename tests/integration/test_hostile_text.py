"""What a client sends that is not text."""

import pytest

from tests.integration.api import Api, connected, hear_close, on_memory


def test_text_that_is_not_utf8_closes_the_socket_and_leaves_no_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as socket:
            await socket.send([b"\xff\xfe"], text=True)
            assert (await hear_close(socket))[0] == 1007

    on_memory(scenario)
    assert caplog.records == []
