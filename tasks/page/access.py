"""Who asks, and what they may do: the app's one question to whatever it is served by."""

import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from starlette.requests import Request


@dataclass(frozen=True)
class Visitor:
    """Who asks: the name that is logged and given with a name, and what they may do."""

    name: str
    may_read: bool = True
    may_name: bool = False


class Access(Protocol):
    """Says who is behind a request.

    `home` is where the app that serves the page starts, to link back; None without one.
    `framed` says whether the page may be shown in a frame of its own origin.
    """

    home: str | None
    framed: bool

    async def visitor(self, request: Request) -> Visitor | None:
        """Return who asks; None for somebody who is not known: the answer is 401."""
        ...


class TokenAccess:
    """Everyone with the token of the address that `python -m tasks page` prints."""

    home: str | None = None
    framed = False

    def __init__(self, name: str, token: str | None = None) -> None:
        """Take the name under which what is done is logged; without a token one is drawn."""
        self.name = name
        self.token = token or secrets.token_urlsafe(32)
        # Pages on other ports of the machine get the same cookies: each has a name of its own.
        self.cookie = f"intents_page_{sha256(self.token.encode()).hexdigest()[:12]}"

    def matches(self, given: str) -> bool:
        """Tell whether this is the token, in a time that says nothing about it."""
        return hmac.compare_digest(given.encode(), self.token.encode())

    async def visitor(self, request: Request) -> Visitor | None:
        """Return the one visitor there is, if the cookie has the token."""
        if self.matches(request.cookies.get(self.cookie, "")):
            return Visitor(self.name, may_name=True)
        return None


class FormTokens:
    """Tokens that a form carries, so that no other site can send it in a visitor's name.

    A token is made of a secret of this process and the visitor's name. After a restart a form that
    was open has to be loaded again.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        """Take a secret that all processes share which serve the page, or draw one."""
        self._secret = secret or secrets.token_bytes(32)

    def of(self, visitor: Visitor) -> str:
        """Return the token for a visitor's forms."""
        return hmac.new(self._secret, visitor.name.encode(), sha256).hexdigest()

    def matches(self, given: str, visitor: Visitor) -> bool:
        """Tell whether a form carries the token of this visitor."""
        return hmac.compare_digest(given.encode(), self.of(visitor).encode())
