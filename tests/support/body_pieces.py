"""Bodies in pieces."""

from hypothesis import strategies as st

from gateway.openai.pieces import Pieces


@st.composite
def pieces(draw: st.DrawFn, body: bytes) -> Pieces:
    """Cut a body anywhere, within letters and escapes, too."""
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
    return Pieces([body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b])
