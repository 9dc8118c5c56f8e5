"""What is not known of a lease's release, as it stands in ``lease.doubt``.

Law, while the lease is not over:

* False: none has left unheard.
* UNDER_WAY: some call waits for the answer to one. If the server has the lock no more, that call
  will be told whether it was its own. It takes this back if nothing was sent.
* SHARED: more than one call does, or did. Nobody takes this back.
* True: one may have been carried out whose answer nobody will hear. If the server has the lock no
  more before its deadline, it was that one. Nobody takes this back; whoever is interrupted
  behind a sending leaves it.
"""

from __future__ import annotations

from typing import Any, Final

UNDER_WAY: Final = 2
SHARED: Final = 3


def interrupted(lease: Any) -> None:
    """Nobody will hear the answer to a release that was under way, if one was."""
    if lease.doubt and not lease.over:
        lease.doubt = True
