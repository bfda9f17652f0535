"""The plan page: what a run will do, with every effective value, before it does it. Shown in the KFP run as an artifact.

What it will be released for stands first, in words; then what is known of its size, every source, what was chosen, every task.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tutelage.contracts.masking import mask
from tutelage.report import words
from tutelage.report.style import environment, page

if TYPE_CHECKING:
    from markupsafe import Markup

TRAINING = "train/train"
LATER_ENTRY = re.compile(r"\[[1-9]\d*\]")
OBJECTIVES: Mapping[str, str] = {
    "pretrain": "continue its pretraining on documents",
    "sft": "fine-tune it on exercises and answers",
    "dpo": "align it with preferences",
}

Setting = Mapping[str, Any]


def plan_page(plan: Mapping[str, Any]) -> str:
    """The whole page for the content of plan.json."""
    settings = {setting["path"]: setting for task in plan["tasks"] for setting in task["settings"]}
    values = {path: setting["value"] for path, setting in settings.items()}
    chosen = [setting for setting in settings.values() if setting["changed"]]
    template = environment().overlay()
    template.filters = {**environment().filters, "json": _json, "pinned": _pinned}
    body = template.get_template("plan_page.jinja").render(
        plan=plan,
        tasks=_tasks(plan["tasks"]),
        story=_story(plan, values),
        names={item["where"]: _name_of(item["where"], values) for item in plan["sources"]},
        release=values.get("policy.release.name", "model"),
        rules=_rules(values),
        tiles=_tiles(plan, values),
        chosen=_grouped(chosen, values),
        total_chosen=len(chosen),
        total=len(settings),
    )
    return page(f"Plan: {plan['pipeline']}", mask(body))


def _story(plan: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """What the run will do, as the end of a sentence that begins with "This run will"."""
    base = values.get("base_model.uri")
    start = f"start from {str(base).partition('#')[0]}" if base else "start from a model with random weights"
    sources = sum(1 for path in values if path.startswith("sources[") and path.endswith("].uri"))
    objectives = [str(task["label"]).partition("-")[2] for task in plan["tasks"] if task["step"] == TRAINING]
    training = [OBJECTIVES.get(name, f"train it ({name})") for name in objectives]
    data = f"check and clean the data of {sources} source{'' if sources == 1 else 's'}"
    last = "measure it against where it started, decide, and serve it for a test"
    return words.listed([start, data, *training, last])


def _name_of(where: str, values: Mapping[str, Any]) -> str:
    """What the recipe calls a source or a task of the suite; "" where it has no name."""
    return str(values.get(f"{where}.name") or values.get(f"{where}.task") or "")


def _rules(values: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the policy asks of figures, in words."""
    found = []
    index = 0
    while (name := values.get(f"policy.release.rules[{index}].figure")) is not None:
        place = f"policy.release.rules[{index}]"
        asked, margin = values.get(f"{place}.must_be"), values.get(f"{place}.margin")
        parts = []
        if asked == "non_inferior":
            parts.append(f"proven to lose less than {margin:g} against the model it started from")
        elif asked:
            more = f" by more than {margin:g}" if margin and asked == "better" else ""
            more = " beyond doubt (it passes when nothing can be told)" if asked == "not_worse" else more
            parts.append(f"{str(asked).replace('_', ' ')} than the model it started from{more}")
        for key, said in (("minimum", "at least"), ("maximum", "at most")):
            if (bound := values.get(f"{place}.{key}")) is not None:
                parts.append(f"{said} {bound:g}")
        found.append({"text": f"{name} is {words.listed(parts)}", "measures": words.figure(str(name))})
        index += 1
    return found


def _tiles(plan: Mapping[str, Any], values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(title, figure, what it is of): what to take in at a glance."""
    known = {item["quantity"]: item["value"] for item in plan["estimates"]}
    tiles = [
        ("Tasks", str(len(plan["tasks"])), "beside check and clean"),
        ("Sources", str(len(plan["sources"])), "read from outside"),
    ]
    if (parameters := known.get("parameters")) is not None:
        tiles.append(("Parameters", f"{parameters / 1e6:,.1f}", "million"))
    if (data := known.get("data to read")) is not None:
        tiles.append(("Data to read", f"{data / 1e6:,.1f}", "MB"))
    if "seed" in values:
        tiles.append(("Seed", str(values["seed"]), ""))
    return tiles


def _grouped(chosen: Sequence[Setting], values: Mapping[str, Any]) -> list[tuple[str, list[Setting]]]:
    """(section of the recipe, its chosen settings); each source is a section of its own, by name."""
    groups: dict[str, list[Setting]] = {}
    for setting in chosen:
        section = str(setting["path"]).partition(".")[0]
        name = values.get(f"{section}.name")
        again = LATER_ENTRY.search(str(setting["path"])) is not None
        entry = {**setting, "documentation": "" if again else setting["documentation"]}
        groups.setdefault(f"{section}: {name}" if name else section, []).append(entry)
    return sorted(groups.items(), key=lambda item: ("sources[" in item[0], item[0]))


def _tasks(tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tasks with the settings that no earlier task has shown, and how many others they share with which task.

    A list's second entry says nothing new of what its fields mean, so meanings stand with the first.
    """
    first: dict[str, str] = {}
    found = []
    for task in tasks:
        own, shared = [], Counter[str]()
        for setting in task["settings"]:
            label = first.setdefault(setting["path"], task["label"])
            if label != task["label"]:
                shared[label] += 1
                continue
            again = LATER_ENTRY.search(setting["path"]) is not None
            own.append({**setting, "documentation": "" if again else setting["documentation"]})
        found.append({**task, "own": own, "shared": sorted(shared.items())})
    return found


def _json(value: Any) -> str:
    """A value as a recipe has it; nothing in words."""
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _pinned(uri: str) -> Markup:
    """An address with its pin on a line of its own, cut short: the whole one stands under chosen values."""
    from markupsafe import Markup, escape

    address, _, pin = uri.partition("#")
    shown = f"{pin[:24]}…" if len(pin) > 25 else pin
    return escape(address) + (Markup('<br><span class="soft">#{}</span>').format(shown) if pin else Markup(""))
