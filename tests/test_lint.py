"""Lint is the same wherever it is run: in test.sh, before a commit and in CI."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_hooks_are_the_lint_steps_of_the_test_script():
    script = (ROOT / "mpi_scripts" / "test.sh").read_text()
    steps = dict(re.findall(r'^step "([^"]+)" ((?:ruff|lint-imports|mypy).*)$', script, re.M))
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {hook["name"]: hook["entry"] for hook in repo["hooks"]} == steps and len(steps) == 4


def test_the_workflow_runs_what_ci_runs():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = {name: [step.get("run") for step in job["steps"]] for name, job in jobs.items()}
    assert "bash .ci/run" in commands["test"]
    script = (ROOT / "mpi_scripts" / "test.sh").read_text()
    linters = [command for command in commands["lint"] if command and "pip" not in command]
    assert linters and all(f" {command}\n" in script for command in linters)
