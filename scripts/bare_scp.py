"""The yardstick of bench-ingest.py: pynetdicom as it is, with a handler that writes and fsyncs, and does nothing else.

python scripts/bare_scp.py PORT FOLDER
"""

from __future__ import annotations

import os
import sys
from io import BytesIO
from pathlib import Path
from typing import cast

from benching import PDU_BYTES
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE

from triage_node.receive import file_header


def serve_bare(port: int, folder: Path) -> None:
    """Serve until the process is ended."""

    def store(event: evt.Event) -> int:
        request = cast(C_STORE, event.request)
        sop_class_uid, sop_uid = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        with (folder / f"{sop_uid}.dcm").open("wb") as file:
            file.write(file_header(sop_class_uid, sop_uid, str(event.context.transfer_syntax), "BENCH"))
            file.write(cast(BytesIO, request.DataSet).getbuffer())
            file.flush()
            os.fsync(file.fileno())
        return 0x0000

    ae = AE(ae_title="BARE")
    ae.maximum_pdu_size = PDU_BYTES
    ae.add_supported_context(CTImageStorage, [ExplicitVRLittleEndian])
    ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    serve_bare(int(sys.argv[1]), Path(sys.argv[2]))
