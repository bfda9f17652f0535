"""The plan page: what a run will do, with every effective value, before it does it. Shown in the KFP run as an artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tutelage.report.style import environment, page

TEMPLATE = """
<h1>Plan: {{ plan.pipeline }}</h1>
<p>Everything was checked before anything started: configs, sources, licences, model, suite and policy.
Values marked <strong>chosen</strong> differ from their default or have none.</p>
<dl class="facts">
  <dt>Tasks</dt><dd>{{ plan.tasks | length }}: {{ plan.tasks | map(attribute="label") | join(" → ") }}</dd>
  <dt>Chosen values</dt><dd>{{ chosen | length }} of {{ total }}</dd>
</dl>

<h2 id="estimate">Estimate</h2>
<div class="table" role="region" aria-labelledby="estimate" tabindex="0"><table>
<caption>What is known before the start; the rest is said to be unknown, not guessed.</caption>
<thead><tr><th scope="col">Quantity</th><th scope="col" class="number">Value</th><th scope="col">Unit</th>
<th scope="col">How it is known</th></tr></thead>
<tbody>
{% for item in plan.estimates %}
<tr><th scope="row">{{ item.quantity }}</th><td class="number">{{ item.value | number }}</td><td>{{ item.unit }}</td>
<td>{{ item.basis }}</td></tr>
{% endfor %}
</tbody></table></div>

<h2 id="sources">Sources</h2>
<div class="table" role="region" aria-labelledby="sources" tabindex="0"><table>
<caption>Everything the run reads from outside, and what was looked at before the start.</caption>
<thead><tr><th scope="col">In the recipe</th><th scope="col">Source</th><th scope="col">Licence</th>
<th scope="col">Checked</th></tr></thead>
<tbody>
{% for item in plan.sources %}
<tr><th scope="row"><code>{{ item.where }}</code></th><td><code>{{ item.uri }}</code></td><td>{{ item.licence }}</td>
<td>{{ item.checked }}</td></tr>
{% else %}
<tr><td colspan="4">none</td></tr>
{% endfor %}
</tbody></table></div>

<h2 id="chosen">Chosen values</h2>
<div class="table" role="region" aria-labelledby="chosen" tabindex="0"><table>
<caption>Values that this run sets; all others are defaults.</caption>
<thead><tr><th scope="col">Setting</th><th scope="col">Value</th><th scope="col">Default</th></tr></thead>
<tbody>
{% for item in chosen %}
<tr><th scope="row"><code>{{ item.path }}</code></th><td><code>{{ item.value | shown }}</code></td>
<td>{% if item.required %}<span class="soft">none</span>{% else %}<code>{{ item.default | shown }}</code>{% endif %}</td></tr>
{% endfor %}
</tbody></table></div>

<h2>Every task</h2>
{% for task in plan.tasks %}
<details>
<summary><strong id="task-{{ task.label }}">{{ task.label }}</strong> <span class="soft">({{ task.step }}, {{ task.runtime }},
{{ task.settings | length }} settings)</span></summary>
<div class="table" role="region" aria-labelledby="task-{{ task.label }}" tabindex="0"><table>
<thead><tr><th scope="col">Setting</th><th scope="col">Value</th><th scope="col"></th><th scope="col">Meaning</th></tr></thead>
<tbody>
{% for item in task.settings %}
<tr{% if item.changed %} class="changed"{% endif %}><th scope="row"><code>{{ item.path }}</code></th>
<td><code>{{ item.value | shown }}</code></td><td>{{ "chosen" if item.changed else "default" }}</td>
<td>{{ item.documentation }}</td></tr>
{% else %}
<tr><td colspan="4">no settings</td></tr>
{% endfor %}
</tbody></table></div>
</details>
{% endfor %}
<footer>The same as JSON: plan.json beside this page.</footer>
"""


def plan_page(plan: Mapping[str, Any]) -> str:
    """The whole page for the content of plan.json."""
    made = environment().overlay()
    made.filters["shown"] = _shown
    settings = [setting for task in plan["tasks"] for setting in task["settings"]]
    chosen = {setting["path"]: setting for setting in settings if setting["changed"]}
    total = len({setting["path"] for setting in settings})
    body = made.from_string(TEMPLATE).render(plan=plan, chosen=list(chosen.values()), total=total)
    return page(f"Plan: {plan['pipeline']}", body)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
