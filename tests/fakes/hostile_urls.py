"""Text that looks like a URL and may be none, for Hypothesis."""

from hypothesis import strategies as st

_PIECES = (
    "a", "example.org", "xn--", "xn--a", "é", "\u2100", "\uff0f", "\u3002", ".", "..", "-", "_",
    ":", "::", "[", "]", "[::1]", "[::1].x", "[fe80::1%25eth0]", "[v1.x]", "127.0.0.1", "@", "u:p@",
    "\\", "%", "%41", "%00", "%ff", "/", "//", "?", "#", "0", ":0", ":80", ":65536", ":99999999",
    " ", "\t", "\u202e", "\x7f", "\x85", "\udce9", "a" * 63, "a" * 70, "a." * 130, '"', "|", ";",
)  # fmt: skip

hostile_rest = st.lists(st.sampled_from(_PIECES) | st.text(max_size=3), max_size=6).map("".join)
"""What may follow `http://`."""

hostile_urls = st.builds(
    str.__add__, st.sampled_from(("http://", "https://", "HTTP://", "//", "/", "ftp://", "")),
    hostile_rest,
)  # fmt: skip
