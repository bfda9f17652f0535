"""Personal data and secrets in text: found by pattern and checksum, replaced by a placeholder that says what stood there.

Patterns alone flag too much, so what has a checksum is checked: IBANs by country length and mod 97 (ISO 13616), card numbers
by issuer range and Luhn (ISO/IEC 7812). IP addresses count when they are global ones; private and documentation ranges
name nobody. Names and postal addresses are not found: that takes a model.
Every pattern is anchored so that matching stays linear in the length of the text.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from tutelage.contracts.masking import ACCESS_KEYS

EXAMPLE_CHARACTERS = 80


@dataclass(frozen=True)
class Detector:
    """One type of personal data: a pattern, what a match must further pass, and a cheap test for texts without any."""

    type: str
    pattern: re.Pattern[str]
    passes: Callable[[str], str | None]
    """The part of a match, from its start, that is of this type; None when it is not."""
    hints: tuple[str, ...] = ()
    """Strings of which one must occur in a text for a match to be possible; empty: a digit must."""

    @property
    def placeholder(self) -> str:
        """What stands in the text afterwards."""
        return f"<{self.type.upper()}>"


def _whole(match: str) -> str | None:
    return match


def _phone(match: str) -> str | None:
    digits = re.sub(r"\D", "", match)
    is_number = re.fullmatch(r"\+\d+\.\d+", match) is not None
    # Fewer than four different digits: a bit pattern or a place holder.
    return match if 8 <= len(digits) <= 15 and len(set(digits)) > 3 and not is_number else None


#: Countries and the characters of their IBANs (SWIFT IBAN registry).
_IBANS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 FO18 FR27 "
    "GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 "
    "MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SD18 SE24 SI19 SK24 SM27 ST25 SV28 "
    "TL23 TN24 TR26 UA29 VA22 VG24 XK20"
)
IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _IBANS.split()}


def _iban(match: str) -> str | None:
    length = IBAN_LENGTHS.get(match[:2])
    if length is None:
        return None
    taken, kept = 0, 0
    for position, character in enumerate(match):
        taken += character != " "
        if taken == length:
            kept = position + 1
            break
    if taken != length:
        return None
    compact = match[:kept].replace(" ", "")
    number = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return match[:kept] if int(number) % 97 == 1 else None


_CARD_ISSUERS = re.compile(r"4|5[1-5]|2[2-7]|3[0-9]|6(?:011|4|5|2)")


def _card(match: str) -> str | None:
    digits = re.sub(r"\D", "", match)
    if not 13 <= len(digits) <= 19 or not _CARD_ISSUERS.match(digits) or len(set(digits)) < 2:
        return None
    doubled = [int(digit) * (2 if index % 2 else 1) for index, digit in enumerate(reversed(digits))]
    return match if sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0 else None


def _address(match: str) -> str | None:
    if re.fullmatch(r"\d(?:\.\d){3}", match):
        return None  # a version or a section
    try:
        return match if ipaddress.ip_address(match).is_global else None
    except ValueError:
        return None


_LABEL = r"[^\W_](?:[\w-]{0,62}[^\W_])?"
_AT_ENTITY = r"&(?:#0{0,5}64|#[xX]0{0,5}40|commat);"
#: The last label of a domain. `x@y.dot(z)` is a matrix product and `x@model.coef_` an attribute: letters that are called or run
#: on count only where they are a common top-level domain that is no method's name.
_LAST_LABEL = (
    r"(?:(?i:xn--[a-z0-9-]{1,59})(?![\w(])|(?!(?i:xn--))[^\W\d_]{2,24}(?![\w(]|\.\w{1,63}\()"
    r"|(?i:com|org|edu|gov|de|uk|fr|eu|nl|jp|cn|ru)(?=[_(]))"
)
#: `alice [at] example [dot] com`, in any brackets, also with a true dot.
_SPELT_AT = r"[ \xa0]{0,2}[\[({<] ?(?i:at) ?[\])}>][ \xa0]{0,2}"
_SPELT_DOT = r"(?:\.|[ \xa0]{0,2}[\[({<] ?(?i:dot|\.) ?[\])}>][ \xa0]{0,2})"
_SPELT_HINTS = ("[at]", "(at)", "{at}", "<at>", "[ at ]", "( at )", "[AT]", "(AT)", "{AT}", "<AT>")

#: In order of replacement: what holds digits inside something larger comes after the larger thing.
DETECTORS = (
    Detector(
        "private_key",
        re.compile(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:(?:(?!-----)[\s\S]){0,20000}-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s\\]*)"
        ),
        _whole,
        ("PRIVATE KEY",),
    ),
    Detector(
        "api_key",
        re.compile(ACCESS_KEYS),
        _whole,
        ("AKIA", "ASIA", "gh", "glpat-", "xox", "sk-", "sk_", "AIza", "hf_", "npm_", "pypi-", "eyJ"),
    ),
    Detector(
        "email",
        # Emphasis of Markdown, `_` or `__` on both sides; `X@model.coef_` is an attribute. A literal first: it is found fast.
        re.compile(
            r"_(?<=(?<![\w.%+-])_)_?[^\W_][\w.%+-]{0,63}+@"
            rf"(?:{_LABEL}\.){{1,8}}[^\W\d_]{{2,24}}(?=_+(?!\w|[(\[]|\.\w))"
        ),
        _whole,
        ("@",),
    ),
    Detector(
        "email",
        re.compile(
            rf"(?<![\w.%+-])[\w.%+-]{{1,64}}+(?:[@\uff20\ufe6b]|{_AT_ENTITY})(?:{_LABEL}\.){{1,8}}{_LAST_LABEL}"
        ),
        _whole,
        ("@", "\uff20", "\ufe6b", "&#", "&commat;"),
    ),
    Detector(
        "email",
        re.compile(rf"(?<![\w.+-])[\w.+-]{{1,64}}+%40(?:{_LABEL}\.){{1,8}}[^\W\d_]{{2,24}}(?![\w(-])"),
        _whole,
        ("%40",),
    ),
    Detector(
        "email",
        re.compile(
            rf"(?<![\w.%+-])[\w.%+-]{{1,64}}+{_SPELT_AT}{_LABEL}(?:{_SPELT_DOT}{_LABEL}){{0,7}}{_SPELT_DOT}"
            r"[^\W\d_]{2,24}(?![\w(-])"
        ),
        _whole,
        _SPELT_HINTS,
    ),
    Detector("iban", re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}"), _iban),
    Detector(
        "card",
        re.compile(r"(?<![\w.-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5})(?![\w-])"),
        _card,
    ),
    Detector(
        "phone",
        re.compile(
            r"(?<![\w+.-])(?<!\d[ ])(?:"
            r"\+[1-9]\d{0,14}+(?:[ ./-]?\(\d{1,5}\))?(?:(?:[ ./-]|(?<=\)))\d{1,14}+){0,6}(?!\w)"
            r"|(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-]|[ ]\d)"
            r"|\(?0\d{2,4}\)?[ /-]\d{3,4}[ -]?\d{3,5}(?![\w-]|[ ]\d)"
            r")"
        ),
        _phone,
    ),
    Detector("ip_address", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)"), _address),
    Detector(
        "ip_address",
        re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{1,4}:{1,2}){3,7}[0-9a-fA-F]{1,4}(?![\w:])"),
        _address,
        (":",),
    ),
)
TYPES = tuple(dict.fromkeys(detector.type for detector in DETECTORS))


def mask(text: str) -> tuple[str, Counter[str]]:
    """`text` with personal data replaced by placeholders, and how many of each type there were."""
    found: Counter[str] = Counter()
    for detector in DETECTORS:
        if _possible(text, detector.hints):
            text = _replace(text, detector, found)
    return text, found


def _possible(text: str, hints: tuple[str, ...]) -> bool:
    return any(hint in text for hint in hints) if hints else bool(_DIGIT.search(text))


_DIGIT = re.compile(r"\d\D{0,2}\d")


def _replace(text: str, detector: Detector, found: Counter[str]) -> str:
    def placeholder(match: re.Match[str]) -> str:
        whole = match.group()
        part = detector.passes(whole)
        if part is None:
            return whole
        found[detector.type] += 1
        return detector.placeholder + whole[len(part) :]

    return detector.pattern.sub(placeholder, text)


def example(masked: str) -> str | None:
    """A masked text's first placeholder and its shape around, at most 80 characters; None where there is none.

    Words beside personal data are often names, so only words of a closed list are shown, letters of others as x.
    """
    first = _placeholders().search(masked)
    if first is None:
        return None
    room = (EXAMPLE_CHARACTERS - len(first.group())) // 2
    before = masked[max(0, first.start() - room) : first.start()]
    after = masked[first.end() : first.end() + room]
    return _shape(before) + first.group() + _shape(after)


@cache
def _placeholders() -> re.Pattern[str]:
    return re.compile("|".join(f"<{name.upper()}>" for name in TYPES))


#: Words that tell what kind of place it was and are nobody's name.
_WORDS = (
    "a address addresses an and api at author authors be by call called card com contact contacts email emails for from has "
    "have he host iban if in info ip is it key keys mail maintainer maintainers me my number of on or our phone please send "
    "server she tel telephone that the their them they this to token us was we were with write written you your"
)
_SHOWN = frozenset(_WORDS.split())


def _shape(context: str) -> str:
    def word(match: re.Match[str]) -> str:
        text = match.group()
        if text in _SHOWN:
            return text
        return "".join("0" if letter.isdigit() else "X" if letter.isupper() else "x" for letter in text)

    return re.sub(r"\s", " ", re.sub(r"\w+", word, context))


def mask_values(values: Mapping[str, object]) -> tuple[dict[str, object], Counter[str]]:
    """Metadata with personal data in its strings replaced, and how many of each type there were."""
    found: Counter[str] = Counter()
    masked: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, str):
            value, counts = mask(value)
            found += counts
        masked[name] = value
    return masked, found
