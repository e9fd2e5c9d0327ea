"""How every command of this package ends: with an exit status, and one sentence on stderr for what went wrong."""

from collections.abc import Callable

from rich.console import Console

from training.errors import TrainingError


def exit_status(work: Callable[[], object], interrupted: str) -> int:
    """Run a command's work; gives 0, 1 (a sentence says why), or 130 with what is true after Ctrl-C."""
    try:
        work()
    except TrainingError as error:
        return fail(str(error))
    except OSError as error:
        return fail(
            f"{error.filename or 'a file'}: {error.strerror or error}; nothing was left half-written, so mend that "
            f"(free some space, or name another folder) and run the same command, which goes on from here"
        )
    except KeyboardInterrupt:
        return fail(f"interrupted; {interrupted}", status=130)
    return 0


def fail(sentence: str, status: int = 1) -> int:
    """Report an error on stderr; gives the exit status."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"error: {sentence}")
    return status


def make_console() -> Console:
    """Give the console of a command, which prints names as they are, and has no edge to wrap at in a log."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    return console
