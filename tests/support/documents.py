"""The project's documents as tests read them: sections, tables, code blocks."""

import re

from support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SCHEMA_DOC = (ROOT / "docs" / "schema-design-v2.md").read_text(encoding="utf-8")
STREAM_DOC = (ROOT / "docs" / "streaming-architecture.md").read_text(encoding="utf-8")
READING_DOC = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
API_DOC = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")
CLI_DOC = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
SETTINGS_DOC = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
GUIDE_DOC = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
OPERATIONS_DOC = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
BENCHMARKS_DOC = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def section(text: str, title: str) -> str:
    """Return what stands below a title, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables of a text, but for their heads."""
    tables = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()[2:]]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[cell.strip() for cell in row] for row in cells]


def code(kind: str, text: str) -> str:
    """Return the code blocks of one language, joined."""
    return "\n".join(re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def quoted(text: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", text)
