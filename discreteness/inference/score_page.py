"""scored documents -> one HTML page: their texts, every token colored by its loss. It runs and fetches nothing."""

import unicodedata
from collections.abc import Iterator, Sequence
from html import escape

from speedrun.data.tokenizer import decode_bytes

from discreteness.inference.load import Trained
from discreteness.inference.score import Scored

DEEPEST_NATS = 10.0
"""Loss from which on a token is as red as it gets; a guess among all ids costs 10.8."""
INVISIBLE = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
"""Unicode categories that are written out: they cannot be seen, or turn what follows around."""
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Loss of every token</title>
<style>
body { font: 16px/1.7 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #111;
  background: #fff; }
h2 { font-size: 1.1rem; margin: 2rem 0 0; overflow-wrap: anywhere; }
p { margin: 0; color: #555; }
pre { font: 15px/1.8 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: .5rem 0; }
span { border-radius: 2px; }
.answer { border-bottom: 2px solid #06c; }
i { font-style: normal; opacity: .5; }
</style></head><body>
"""


def page(trained: Trained, scored: Sequence[Scored]) -> str:
    """A whole HTML document. What texts and names hold is text in it, whatever it is. A token's numbers show under the
    mouse."""
    parts = [HEAD, f"<p>Track {escape(trained.track.name)}, step {trained.step}. "]
    parts.append(
        f"The redder a token, the larger its loss: {_sample(0)} {_sample(2)} {_sample(5)} {_sample(10)} nats.</p>"
    )
    for one in scored:
        name = "".join(visible(one.document.name.encode()))
        parts.append(f"<h2>{name}</h2><p>{len(one.losses)} tokens, mean loss {one.mean_loss:.4f}</p><pre>")
        for index, token in enumerate(one.document.token_ids[1:], 1):
            loss, rank = float(one.losses[index - 1]), int(one.ranks[index - 1])
            numbers = f"token {index}, id {token}: loss {loss:.4f}, rank {rank}"
            if not one.own_row[index - 1]:
                numbers += ", no row of its own"
            answer = ' class="answer"' if index in one.document.answers else ""
            text = "".join(visible(decode_bytes(token)))
            parts.append(f'<span{answer} style="{_background(loss)}" title="{numbers}">{text}</span>')
        parts.append("</pre>")
    return "".join([*parts, "</body></html>\n"])


def visible(content: bytes) -> Iterator[str]:
    """HTML of a token: its characters; in marks those that cannot be seen, and the bytes of those that are cut."""
    for character in content.decode(errors="surrogateescape"):
        if character == "\n":
            yield "<i>↵</i>\n"
        elif "\udc80" <= character <= "\udcff":
            yield f"<i>⟨{ord(character) - 0xDC00:02x}⟩</i>"
        elif unicodedata.category(character) in INVISIBLE and character != "\t":
            yield f"<i>⟨U+{ord(character):04X}⟩</i>"
        else:
            yield escape(character)


def _background(loss: float) -> str:
    share = min(max(loss / DEEPEST_NATS, 0.0), 1.0) if loss == loss else 1.0  # what is not finite is deepest
    return f"background: rgb(255 {255 - 175 * share:.0f} {255 - 195 * share:.0f})"


def _sample(nats: int) -> str:
    return f'<span style="{_background(nats)}">{nats}</span>'
