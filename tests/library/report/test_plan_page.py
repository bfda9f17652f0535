"""The plan page says in words what will happen, and loses no setting."""

import re

from tutelage.report.plan_page import plan_page


def setting(path, value, changed=True):
    return {
        "path": path,
        "value": value,
        "default": None,
        "required": False,
        "changed": changed,
        "documentation": f"what {path} is",
    }


def plan(*rules):
    shared = [setting("policy.release.name", "small"), setting("seed", 7)]
    for index, rule in enumerate(rules):
        shared += [setting(f"policy.release.rules[{index}].{key}", value) for key, value in rule.items()]
    sources = [setting(f"sources[{index}].{key}", f"{key} {index}") for index in range(2) for key in ("name", "uri")]
    sources.append(setting("base_model.uri", "wheel://m==1/m#sha256=ab"))
    task = {"image": "python", "runtime": "process"}
    return {
        "pipeline": "supervised_finetuning",
        "tasks": [
            {"label": "ingest", "step": "data/ingest", "settings": sources, **task},
            {"label": "train-sft", "step": "train/train", "settings": [setting("finetuning.epochs", 1, False)], **task},
            {"label": "decide", "step": "release/decide", "settings": shared, **task},
            {"label": "enforce", "step": "release/enforce", "settings": shared, **task},
        ],
        "sources": [{"where": "sources[0]", "uri": "uri 0", "licence": "NOASSERTION", "checked": "there"}],
        "estimates": [{"quantity": "data to read", "value": 2_500_000, "unit": "bytes", "basis": "files"},
                      {"quantity": "rows", "value": None, "unit": "rows", "basis": "later"}],
    }  # fmt: skip


def text_of(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html.split("<main")[1]))


def test_it_says_what_will_happen_and_what_the_model_must_be():
    text = text_of(plan_page(plan({"figure": "perplexity/sft", "must_be": "better"},
                                  {"figure": "accuracy/x", "must_be": "not_worse", "minimum": 0.5},
                                  {"figure": "accuracy/y", "must_be": "non_inferior", "margin": 0.1})))  # fmt: skip
    assert (
        "start from wheel://m==1/m, check and clean the data of 2 sources, fine-tune it on exercises and answers"
        in text
    )
    assert "It is released as small only if: perplexity/sft is better than the model it started from" in text
    assert (
        "not worse than the model it started from beyond doubt (it passes when nothing can be told) and at least 0.5"
        in text
    )
    assert "accuracy/y is proven to lose less than 0.1 against the model it started from" in text
    assert "2.5 MB" in text and "unknown" in text and "✗ unknown" in text


def test_a_policy_without_rules_is_said_to_release_nothing():
    assert "It cannot be released" in text_of(plan_page(plan()))


def test_every_setting_stands_once_among_tasks_and_the_second_entry_of_a_list_without_its_meaning():
    html = plan_page(plan({"figure": "perplexity/sft", "must_be": "better"}))
    text = text_of(html)
    assert text.count("what finetuning.epochs is") == 1  # a default: among the tasks alone
    assert "The same as shown above: 4 of decide." in text
    assert "what sources[0].uri is" in text and "what sources[1].uri is" not in text and "uri 1" in text
