import contextlib
import os

import pytest

from statemix.cli import main


@pytest.fixture
def status_behind_a_closed_pipe():
    """The exit status of a command whose output nobody reads any more, as behind ``| head -1``."""

    def run(arguments):
        reader, writer = os.pipe()
        os.close(reader)
        # What is left in the buffer at the end must not fail again, as it would when Python ends.
        with os.fdopen(writer, "w") as stream, contextlib.redirect_stdout(stream):
            try:
                return main(arguments)
            except SystemExit as ended:
                return ended.code

    return run
