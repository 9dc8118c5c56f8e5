"""Exit codes of the command line. Law: one meaning each; docs/cli.md has the same table.

Those of ``fastlock run`` beyond 64 stand beside its command's own, which may be any: they are
the numbers of sysexits.h where that has one, and else one that it leaves free.
"""

from __future__ import annotations

#: The command has found something wrong, or there was nothing to do.
FOUND_WRONG = 1
#: Wrong usage, wrong settings, something that is not installed.
USAGE = 2
#: The server cannot be reached, refuses, or its answer was lost (EX_UNAVAILABLE).
SERVER = 69
#: A mistake in fastlock itself (EX_SOFTWARE).
UNFORESEEN = 70
#: The lock was not to be had in time (EX_TEMPFAIL): try again later.
NOT_ACQUIRED = 75
#: The lock was lost while the command ran.
LOST = 79
#: As shells say it.
NOT_EXECUTABLE = 126
NOT_FOUND = 127
#: And a signal's number is added to this.
SIGNALLED = 128
INTERRUPTED = 130
#: Nobody reads on what we print (SIGPIPE).
UNREAD = 141
