"""What is not known of a lease's release, as it stands in ``lease.doubt``.

Law: False: none has left unheard. True: one may have been carried out whose answer nobody will
hear; if the server has the lock no more, it was that one. UNDER_WAY: some call waits for the
answer to one; if the server has the lock no more, that call will be told whether it was its own.
Truth in one place: whoever sets UNDER_WAY takes it back, and whoever is interrupted leaves True.
"""

from __future__ import annotations

from typing import Final

UNDER_WAY: Final = 2
