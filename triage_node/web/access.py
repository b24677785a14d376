"""Who may come in: by a one-time link on this machine, or by name and password where the configuration has users."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from typing import Annotated, Final

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from triage_node import log
from triage_node.config import User
from triage_node.store import access as store
from triage_node.store.access import Visitor
from triage_node.web.pages import page, site_of

LOCAL_USER: Final = "this-machine"
LOCAL_ROLE: Final = "admin"
"""Who comes by a one-time link."""
_HASHER: Final = PasswordHasher()
_NOBODY: Final = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b/zCGmjFTOUDHZoUN1ZqlPkaUI"
"""Checked for names that do not exist, which then take as long as others."""

router = APIRouter()


class NotLoggedIn(Exception):
    """The request has no session."""


def visitor(request: Request) -> Visitor:
    """Whose session the request has. Raises NotLoggedIn."""
    site, token = site_of(request), request.cookies.get(_cookie(request), "")
    found = store.visitor(site.database, token, now=site.clock(), idle=_idle(request)) if token else None
    if found is None:
        raise NotLoggedIn
    return found


def our_form(who: Annotated[Visitor, Depends(visitor)], csrf: Annotated[str, Form()] = "") -> Visitor:
    """A dependency of everything that changes something: the form came from a page of this session."""
    if not secrets.compare_digest(csrf.encode(), who.csrf.encode()):
        raise HTTPException(403, "this form is not of your session; load the page again")
    return who


def at_least(role: str) -> Callable[[Visitor], None]:
    """A dependency of what only some may open: who has this role, or one that may do more."""

    def check(who: Annotated[Visitor, Depends(visitor)]) -> None:
        if not who.may(role):
            raise HTTPException(403, f"this page is for the role {role}; yours is {who.role}")

    return check


def note(request: Request, who: Visitor, action: str, study_id: int | None = None) -> None:
    """A line of the audit trail."""
    site = site_of(request)
    store.note(
        site.database, at=site.clock(), user=who.user, address=_address(request), action=action, study_id=study_id
    )


@router.get("/enter")
def enter(request: Request, key: str = "") -> Response:
    """By the one-time link."""
    site = site_of(request)
    if not site.config.users and store.use_link(site.database, key, now=site.clock()):
        return _begin(request, LOCAL_USER, LOCAL_ROLE)
    said = "This link was used before or is too old. `triage-node link` prints a new one."
    return page(request, "login.html", None, code=403, said=said, users=bool(site.config.users))


@router.get("/login")
def login_page(request: Request) -> Response:
    """Name and password, or what to do where there are no users."""
    return page(request, "login.html", None, said="", users=bool(site_of(request).config.users))


@router.post("/login")
def login(request: Request, name: Annotated[str, Form()] = "", password: Annotated[str, Form()] = "") -> Response:
    """A session for who knows the password; slower and slower for who does not."""
    site = site_of(request)
    throttle: Throttle = request.app.state.throttle
    who, now = (name[:64], _address(request)), site.clock()
    wait_s = throttle.wait_s(who, now)
    if wait_s > 0:
        said = f"Too many tries. Wait {wait_s:.0f} s."
        return page(request, "login.html", None, code=429, said=said, users=True)
    user = next((user for user in site.config.users if user.name == name), None)
    if not _knows(user, password[:1024]):
        throttle.failed(who, now)
        log.event("login failed", address=who[1])
        return page(request, "login.html", None, code=403, said="Name or password is wrong.", users=True)
    throttle.forget(who)
    assert user is not None
    return _begin(request, user.name, user.role)


@router.post("/logout")
def logout(request: Request, who: Annotated[Visitor, Depends(our_form)]) -> Response:
    """End the session."""
    store.end(site_of(request).database, request.cookies.get(_cookie(request), ""))
    note(request, who, "logout")
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(_cookie(request))
    return answer


def hash_password(password: str) -> str:
    """As [[user]] password wants it."""
    return _HASHER.hash(password)


# ---------------------------------------------------------------- throttling


@dataclass
class Throttle:
    """After three failures of a name from an address each further try waits twice as long, to a quarter of an hour."""

    free: int = 3
    longest_s: float = 900.0
    remembered: int = 10_000
    _failures: dict[tuple[str, str], tuple[int, datetime]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def wait_s(self, who: tuple[str, str], now: datetime) -> float:
        """How long until the next try."""
        with self._lock:
            count, last = self._failures.get(who, (0, now))
        pause_s = min(2.0 ** (count - self.free), self.longest_s) if count >= self.free else 0.0
        return pause_s - (now - last).total_seconds()

    def failed(self, who: tuple[str, str], now: datetime) -> None:
        """One more failure."""
        with self._lock:
            count, _ = self._failures.pop(who, (0, now))
            self._failures[who] = (count + 1, now)
            while len(self._failures) > self.remembered:
                self._failures.pop(next(iter(self._failures)))

    def forget(self, who: tuple[str, str]) -> None:
        """It was the right password."""
        with self._lock:
            self._failures.pop(who, None)


# ---------------------------------------------------------------- steps


def _knows(user: User | None, password: str) -> bool:
    try:
        return _HASHER.verify(user.password if user else _NOBODY, password) and user is not None
    except (Argon2Error, InvalidHashError):
        return False


def _begin(request: Request, user: str, role: str) -> Response:
    site = site_of(request)
    token = store.begin(site.database, user=user, role=role, now=site.clock(), idle=_idle(request))
    store.note(site.database, at=site.clock(), user=user, address=_address(request), action="login")
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(_cookie(request), token, httponly=True, samesite="strict", secure=site.config.web.is_https)
    return answer


def _cookie(request: Request) -> str:
    """With the port: browsers keep one jar for all ports of a host."""
    return f"triage-node-{request.url.port or ''}"


def _idle(request: Request) -> timedelta:
    return timedelta(hours=site_of(request).config.web.session_idle_h)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
