"""What Kubernetes takes for names, labels and variables, checked when settings and recipes are read.

An API server refuses the same, but only when the first job of a run is made: hours after the mistake was typed.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

MAXIMUM_LABEL = 63
MAXIMUM_NAME = 253
LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
#: IsDNS1123Label: namespaces.
DNS_LABEL = re.compile(LABEL)
#: IsDNS1123Subdomain: most objects, and the part of a label's key before its slash.
SUBDOMAIN = re.compile(rf"{LABEL}(\.{LABEL})*")
#: IsQualifiedName without the part before the slash, and a label's value.
WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
#: IsEnvVarName up to Kubernetes 1.33, which every later one takes too.
VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
#: IsConfigMapKey, which the keys of secrets follow too.
SECRET_KEY = re.compile(r"[-._a-zA-Z0-9]+")


def _namespace(text: str) -> str:
    return _or_refuse(DNS_LABEL.fullmatch(text), text, "a namespace: at most 63 lower-case letters, digits and '-'")


def _object_name(text: str) -> str:
    fits = SUBDOMAIN.fullmatch(text) and len(text) <= MAXIMUM_NAME
    return _or_refuse(
        fits, text, "a name of an object: lower-case letters, digits, '-' and '.', at most 253 characters"
    )


def _queue_name(text: str) -> str:
    fits = SUBDOMAIN.fullmatch(text) and len(text) <= MAXIMUM_LABEL
    return _or_refuse(fits, text, "a name of a queue: lower-case letters, digits, '-' and '.', at most 63 characters")


def _label_key(text: str) -> str:
    prefix, slash, word = text.rpartition("/")
    fits = WORD.fullmatch(word) and (not slash or (SUBDOMAIN.fullmatch(prefix) and len(prefix) <= MAXIMUM_NAME))
    return _or_refuse(fits, text, "a key: example.com/word or word, of letters, digits, '-', '_' and '.', at most 63")


def _label_value(text: str) -> str:
    fits = text == "" or WORD.fullmatch(text)
    return _or_refuse(
        fits, text, "a label's value: at most 63 letters, digits, '-', '_' and '.', none of these at an end"
    )


def _variable(text: str) -> str:
    fits = VARIABLE.fullmatch(text) and not text.startswith("..") and text != "."
    return _or_refuse(
        fits, text, "a name of an environment variable: letters, digits, '_', '-' and '.', no digit first"
    )


def _secret_key(text: str) -> str:
    fits = SECRET_KEY.fullmatch(text) and len(text) <= MAXIMUM_NAME
    return _or_refuse(fits, text, "a key of a secret: letters, digits, '_', '-' and '.'")


def _or_refuse(fits: object, text: str, what: str) -> str:
    if not fits:
        raise ValueError(f"{text[:80]!r} is not {what}")
    return text


Namespace = Annotated[str, AfterValidator(_namespace)]
ObjectName = Annotated[str, AfterValidator(_object_name)]
QueueName = Annotated[str, AfterValidator(_queue_name)]
LabelKey = Annotated[str, AfterValidator(_label_key)]
LabelValue = Annotated[str, AfterValidator(_label_value)]
VariableName = Annotated[str, AfterValidator(_variable)]
SecretKey = Annotated[str, AfterValidator(_secret_key)]
