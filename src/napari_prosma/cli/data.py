"""``prosma check``, ``fetch`` and ``forget``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_prosma.cli.arguments import Overwrite, require_new
from napari_prosma.cli.follow import BAD_INPUT, console, describe, exit_codes, follow, say, track
from napari_prosma.cli.tables import table


def check(
    data: Annotated[Path, typer.Argument(help="Folder with images and masks.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Also write the table as CSV.")] = None,
    overwrite: Overwrite = False,
    images: Annotated[
        str | None, typer.Option(help="Which files are images, such as 'images/*'.", show_default="as found")
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(help="Which files are masks, such as 'masks/*'.", show_default="as found"),
    ] = None,
) -> None:
    """List the problems of a data set, case by case, each with a remedy.

    Shapes, frames, empty or unexpected labels, NaN, constant images, duplicates, cases in two splits. Exit
    status 2 if there are errors; warnings are worth a look.

    [bold]Example:[/] prosma check Dataset_BUSI_with_GT --out problems.csv
    """
    with exit_codes():
        from napari_prosma.data.check import check_each, compare, write_table
        from napari_prosma.data.layouts import find_cases
        from napari_prosma.data.layouts.dicom_studies import studies_in

        require_new([out], overwrite)
        data_set = find_cases(data, require_labels=False, images=images, masks=masks)
        describe(data_set)
        if data_set.layout == "DICOM":
            console.print(table(studies_in(data_set.folder).rows()))
        checked = list(track(check_each(data_set), len(data_set.cases), "Checking"))
        problems = [*(p for each in checked for p in each.problems), *compare(data_set, checked)]
        if problems:
            columns = {"case": "case", "": "severity", "found": "found", "remedy": "remedy"}
            console.print(
                table([{title: getattr(p, name) for title, name in columns.items()} for p in problems])
            )
        errors = sum(problem.severity == "error" for problem in problems)
        say(f"cases: {len(checked)}; errors: {errors}; warnings and notes: {len(problems) - errors}")
        if out is not None:
            write_table(problems, out)
        if errors:
            raise typer.Exit(BAD_INPUT)


def fetch(
    name: Annotated[
        str, typer.Argument(help="busi, kvasir-seg, spleen or colon (Decathlon).", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder to unpack into.", show_default=False)],
) -> None:
    """Download a public data set, verified and unpacked; its licence is shown first.

    After Ctrl-C or a broken connection, the same command resumes the download.

    [bold]Example:[/] prosma fetch kvasir-seg --out data
    """
    with exit_codes():
        from napari_prosma.data.fetch import fetch as run
        from napari_prosma.data.layouts import find_cases

        try:
            folder = follow(run(name, out))
        except KeyboardInterrupt:
            say("The downloaded part is kept; run the same command to resume")
            raise
        say(f"{folder}: {find_cases(folder, require_labels=False).summary}")


def forget() -> None:
    """Forget what the panels remember: recent models, folders, form values. Runs and models stay."""
    with exit_codes():
        from napari_prosma.app.remembered import forget_all, memory_file

        was_there = forget_all()
        say(f"{memory_file()} is deleted" if was_there else f"Nothing is remembered in {memory_file()}")
