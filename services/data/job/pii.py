"""What people can be told by: in texts by its form and its check digits, in columns by their names too.

Each kind that has check digits is checked, so that any long number is not a card. Sources: ISO/IEC 7812 (Luhn),
ISO 13616 (IBAN), the national registers' rules for the identity numbers.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from services.data.transform_types import PII_KINDS

TEXT_CHARS_MAX = 1_000_000  # of one value that is looked at

Check = Callable[[str], bool]


@dataclass(frozen=True)
class Found:
    """One thing in a text."""

    kind: str
    start: int
    end: int


def _luhn(text: str) -> bool:
    digits = [int(each) for each in text if each.isdigit()]
    doubled = [2 * each - 9 if each > 4 else 2 * each for each in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


_IBAN_LENGTHS = {
    each[:2]: int(each[2:])
    for each in (
        "AD24 AE23 AT20 BE16 BG22 CH21 CY28 CZ24 DE22 DK18 EE20 ES24 FI18 FR27 GB22 GR27 HR21 HU28 IE22 IS26 "
        "IT27 LI21 LT20 LU20 LV21 MC27 MT31 NL18 NO15 PL28 PT25 RO24 SE24 SI19 SK24 SM27 TR26"
    ).split()
}


def _iban(text: str) -> bool:
    plain = text.replace(" ", "").upper()
    if len(plain) != _IBAN_LENGTHS.get(plain[:2], 0):
        return False
    return int("".join(str(int(each, 36)) for each in plain[4:] + plain[:4])) % 97 == 1


def _address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _phone(text: str) -> bool:
    digits = sum(each.isdigit() for each in text)
    return 8 <= digits <= 15 and not re.fullmatch(r"\d{4}[-./]\d{2}[-./]\d{2}.*", text)


def _ahv(text: str) -> bool:
    """Switzerland: the check digit of EAN-13."""
    digits = [int(each) for each in text if each.isdigit()]
    return (10 - sum(each * (1, 3)[i % 2] for i, each in enumerate(digits[:12])) % 10) % 10 == digits[12]


def _ssn(text: str) -> bool:
    """United States: no check digit, but ranges that were never given out."""
    area, group, serial = text.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _dni(text: str) -> bool:
    """Spain: a letter by the remainder of 23."""
    plain = text.upper().replace("-", "")
    number = plain[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == plain[-1]


def _nir(text: str) -> bool:
    """France: 97 less the remainder of 97."""
    plain = re.sub(r"\s", "", text).upper().replace("2A", "19").replace("2B", "18")
    return 97 - int(plain[:13]) % 97 == int(plain[13:])


_ODD = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23]


def _codice_fiscale(text: str) -> bool:
    """Italy: a letter by the sum of weighted signs."""
    plain = text.upper()
    signs = [int(each) if each.isdigit() else ord(each) - 65 for each in plain[:15]]
    total = sum(_ODD[each] if index % 2 == 0 else each for index, each in enumerate(signs))
    return chr(65 + total % 26) == plain[15]


def _pesel(text: str) -> bool:
    """Poland: weighted digits, and a month that there is."""
    digits = [int(each) for each in text]
    weighted = sum(each * weight for each, weight in zip(digits, (1, 3, 7, 9) * 3, strict=False))
    return (weighted - digits[10] * 7 + digits[10]) % 10 == 0 and 1 <= int(text[2:4]) % 20 <= 12


def _steuer_id(text: str) -> bool:
    """Germany: ISO 7064, MOD 11,10; one digit of the first ten comes two or three times."""
    digits = [int(each) for each in text if each.isdigit()]
    product = 10
    for each in digits[:10]:
        product = 2 * ((each + product) % 10 or 10) % 11
    repeated = max(digits[:10].count(each) for each in set(digits[:10]))
    return digits[0] != 0 and repeated in (2, 3) and (11 - product) % 10 == digits[10]


_PHONE = (
    r"(?<![\w+.])(?:(?:\+|00)[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,4}\)?){2,6}|\(?0[1-9]\d{0,3}\)?(?:[ ./-]\d{2,4}){2,4}"
    r"|\(?[2-9]\d{2}\)?[ .-]\d{3}[ .-]\d{4})(?![\w]|\.\d)"
)
_PATTERNS: Mapping[str, tuple[str, Check | None]] = {
    "email": (r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}", None),
    "iban": (r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", _iban),
    "card": (r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d{2,7}){2,4}(?!\d|[.-]\d)", _luhn),
    "national_id_ch": (r"\b756\.?\d{4}\.?\d{4}\.?\d{2}\b", _ahv),
    "national_id_us": (r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])", _ssn),
    "national_id_es": (r"\b[XYZxyz\d]\d{7}-?[A-Za-z]\b", _dni),
    "national_id_fr": (r"\b[12] ?\d{2} ?(?:0[1-9]|1[0-2]) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}\b", _nir),
    "national_id_it": (
        r"\b[A-Za-z]{6}\d{2}[A-EHLMPRSTa-ehlmprst]\d{2}[A-Za-z]\d{3}[A-Za-z]\b",
        _codice_fiscale,
    ),
    "national_id_pl": (r"(?<!\d)\d{11}(?!\d)", _pesel),
    "national_id_de": (r"(?<!\d)\d{2} ?\d{3} ?\d{3} ?\d{3}(?!\d)", _steuer_id),
    "ip": (
        r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7})(?![\w:]|\.\d)",
        _address,
    ),
    "phone": (_PHONE, _phone),
}
KINDS = PII_KINDS
_COMPILED = {kind: (re.compile(_PATTERNS[kind][0]), _PATTERNS[kind][1]) for kind in KINDS}
_NAMES: Mapping[str, str] = {
    "name": r"(first|last|given|family|full|sur|middle|user|maiden)_?names?|names?|customer|patient|employee",
    "email": r"e_?mail(_address)?",
    "phone": r"(tele)?phone(_?(no|number))?|mobile|cell|fax",
    "address": r"(street|home|postal|mailing)?_?address(_?\d)?|street|zip(_?code)?|post(al)?_?code",
    "birth_date": r"(date_?of_?)?birth(_?(date|day))?|dob",
    "national_id": r"ssn|social_security(_number)?|passport(_?(no|number))?|national_?id|tax_?id|ahv|nir|dni|pesel",
    "card": r"(credit_?)?card(_?(no|number))?",
    "iban": r"iban|account_?(no|number)",
    "ip": r"ip(_?address)?",
}
_NAMED = {kind: re.compile(rf"(.*_)?({pattern})(_.*)?") for kind, pattern in _NAMES.items()}


def find(text: str, kinds: tuple[str, ...] = KINDS) -> list[Found]:
    """Everything of some kinds in a text, in order, without overlaps."""
    taken: list[Found] = []
    for kind in KINDS:
        if kind in kinds:
            for each in _matches(kind, text[:TEXT_CHARS_MAX]):
                if all(each.end <= other.start or each.start >= other.end for other in taken):
                    taken.append(each)
    return sorted(taken, key=lambda each: each.start)


def replaced(text: str, kinds: tuple[str, ...], by: Callable[[str, str], str]) -> str:
    """A text with everything of some kinds replaced: `by` is given kind and what was there."""
    parts, last = [], 0
    for each in find(text, kinds):
        parts += [text[last : each.start], by(each.kind, text[each.start : each.end])]
        last = each.end
    return "".join([*parts, text[last:]])


def named(column: str) -> str:
    """The kind that a column's name speaks of; empty where it speaks of none."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column)
    plain = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")
    return next((kind for kind, pattern in _NAMED.items() if pattern.fullmatch(plain)), "")


def hidden(text: str) -> str:
    """Something that was found, for people who may not see it: its form alone."""
    return re.sub(r"[A-Za-z]", "a", re.sub(r"\d", "0", text))[:40]


def _matches(kind: str, text: str) -> Iterator[Found]:
    pattern, check = _COMPILED[kind]
    for match in pattern.finditer(text):
        if check is None or check(match.group()):
            yield Found(kind, match.start(), match.end())
