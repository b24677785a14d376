"""The pages: what a reading radiologist, the on-call lead and the administrator look at.

    server      a bound socket and uvicorn
    app         the routes put together; errors; what every answer carries
    access      who may come in: one-time link or password, sessions, roles, forms that are ours
    worklist    what to read first, live
    figures     what readers said against what the node said
    system      what the administrator looks at
    study       one study: its slices, its findings, what people say of it
    trying      a series or a picture that somebody brings; upload: what is sent, counted as it comes
    results     a result.json and its pictures as pages show them
    words       what a row says, in plain words

Server-rendered; every page has a JSON twin. No torch, no DICOM networking: what is to be analysed is the worker's.
"""

from triage_node.web.app import create_app
from triage_node.web.server import WebServer
from triage_node.web.site import Site

__all__ = ["Site", "WebServer", "create_app"]
