"""Which path of ours a URI reference means; called by `middleware.py` and the purge. Pure."""

from urllib.parse import quote, unquote, urljoin, urlsplit


def path_of(reference: str, *, path: str = "/", host: str = "") -> str | None:
    """The decoded path that `reference` names, as routes see it; None: it is another host's, or garbage.

    Args:
        reference: Absolute or relative (RFC 3986, 4.1).
        path: The decoded path that it is relative to.
        host: The own one, with its port if there is one; empty: any is.
    """
    try:
        url = urlsplit(urljoin(f"//{host}{quote(path)}", reference))
    except ValueError:
        return None
    return unquote(url.path) if host.lower() in ("", url.netloc.lower()) else None
