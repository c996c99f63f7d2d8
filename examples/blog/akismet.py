"""A client of Akismet's REST service: is the key good, is this comment spam?"""

import urllib.error
import urllib.parse
import urllib.request

#: Who asks, as Akismet wants to be told: application/version | plug-in/version.
USER_AGENT = "CeleriacBlog/1.0 | celeriac-example/1.0"


class AkismetError(Exception):
    """Akismet cannot be reached or does not answer the question; it may do so later."""


class Akismet:
    """The service for one key and one blog (its URL)."""

    def __init__(
        self, key: str, blog: str, *, service: str = "https://rest.akismet.com", timeout_s: float = 10.0
    ) -> None:
        self.key, self.blog = key, blog
        self._service, self._timeout_s = service.rstrip("/"), timeout_s

    def verify_key(self) -> bool:
        """Whether the key is good for this blog. Raises AkismetError."""
        return self._ask("verify-key", {"key": self.key}) == "valid"

    def comment_check(self, *, user_ip: str | None, **comment: str | None) -> bool:
        """Whether a comment is spam: `comment_content`, `comment_author` and the rest of Akismet's parameters. Raises AkismetError."""
        answer = self._ask("comment-check", {"user_ip": user_ip or "127.0.0.1", "comment_type": "comment", **comment})
        if answer not in {"true", "false"}:
            raise AkismetError(f"comment-check: Akismet answers {answer[:100]!r}, neither true nor false")
        return answer == "true"

    def _ask(self, question: str, parameters: dict[str, str | None]) -> str:
        form = {"api_key": self.key, "blog": self.blog, **{name: value or "" for name, value in parameters.items()}}
        request = urllib.request.Request(
            f"{self._service}/1.1/{question}", urllib.parse.urlencode(form).encode(), {"User-Agent": USER_AGENT}
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                answer: bytes = response.read(1000)
        except OSError as error:  # urllib's errors and time-outs are OSErrors
            raise AkismetError(f"{question}: {error}") from error
        return answer.decode(errors="replace").strip()
