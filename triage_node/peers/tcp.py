"""What clients of plain TCP services share: TLS that checks who answers, and errors in words."""

from __future__ import annotations

import ssl

from triage_node.errors import DeliveryError


def client_tls(ca_file: str, certificate: str = "", private_key: str = "") -> ssl.SSLContext:
    """TLS as a client that checks certificate and host name. DeliveryError, retryable, where a file is no good."""
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        if certificate:
            context.load_cert_chain(certificate, private_key, password=lambda: "")  # else OpenSSL asks the terminal
    except OSError as error:
        what = f"TLS: a PEM file of this destination cannot be used ({reason(error)})"
        raise DeliveryError(what, retryable=True) from error
    return context


def reason(error: Exception) -> str:
    """Why a connection failed, in a few words and none of the peer's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return error.reason or "TLS"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or type(error).__name__
