"""The table at the end: what was wanted, what was found, whether that is well."""

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass(slots=True)
class Report:
    """Lines in the order in which they were found out; each is told at once."""

    rows: list[tuple[str, str, str, bool | None]] = field(default_factory=list)

    def line(self, what: str, wanted: str, found: str, is_well: bool | None) -> None:
        """One more line; `is_well` is None for what is told without a bound."""
        self.rows.append((what, wanted, found, is_well))
        print(f"{what}: {found}", flush=True)

    @property
    def num_bad(self) -> int:
        """Lines that are not as wanted."""
        return sum(row[3] is False for row in self.rows)

    def show(self) -> None:
        """Print the table."""
        table = Table(title_justify="left", title="scripts/image --check")
        for column in ("what", "wanted", "found", ""):
            table.add_column(column, overflow="fold")
        for what, wanted, found, is_well in self.rows:
            table.add_row(what, wanted, found, {True: "ok", False: "FAILED", None: ""}[is_well])
        Console(width=140).print(table)
