# Question: how do I see all runs of a project beside each other in W&B?
# Command:  .venv/bin/python -m recipes.dashboard entity/project
#           .venv/bin/python -m recipes.dashboard entity/project --runs runs/sweep/wandb --dry-run   needs no account
# Hardware: none.
"""Build a W&B Workspace and a Report for a project of runs: what accuracy costs, criteria, fractions, layers, devices.

What the panels show is found in the runs themselves: offline ones in ``--runs``, else those of the project. A panel
whose keys no run has logged is left out, and named. With ``--dry-run`` both are validated by wandb-workspaces' own
classes and written as JSON. The JSON of a Report has its panels without their set of runs, which wandb-workspaces can
only write with an account.

W&B has no heat-map. That of the layers is a custom chart, whose Vega-Lite drawing (``heat_map.json``) is registered
with the account when the dashboard is saved; where that fails it is left out, and the parallel coordinates stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from recipes.collect import Run, guarded, read_offline, read_project

Sections = dict[str, list[Any]]
HEAT_MAP = Path(__file__).with_name("heat_map.json")
CHART = "lightning-cosprune-ratios"
RATIOS = "pruning/tables/ratios"
"""The table that the callback logs of what each layer lost."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    entity, _, project = options.project.partition("/")
    if not entity or not project:
        raise ValueError(f"expected entity/project, found {options.project!r}")
    runs = read_offline(options.runs) if options.runs else read_project(options.project)
    sections, left_out = build_sections(known_keys(runs), entity)
    for title, missing in left_out.items():
        print(f"left out, not logged by any run: {title}: {', '.join(missing)}")
    if not options.dry_run and not register_heat_map(entity):
        sections["Layers"] = [panel for panel in sections.get("Layers", []) if not isinstance(panel, wr.CustomChart)]
    workspace, report = build_workspace(entity, project, sections), build_report(entity, project, sections)
    if options.dry_run:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, text in (("workspace", workspace_json(workspace)), ("report", report_json(report))):
            path = options.out / f"{name}.json"
            path.write_text(text, encoding="utf-8")
            print(f"Valid: {path}")
        return
    workspace.save()
    report.save()
    print(f"Workspace: {workspace.url}\nReport: {report.url}")


def known_keys(runs: Iterable[Run]) -> set[str]:
    """Keys of summaries, and those of configs with ``config:`` before them."""
    keys: set[str] = set()
    for run in runs:
        keys |= set(run.summary) | {f"config:{name}" for name in run.config}
    return keys


def register_heat_map(entity: str) -> bool:
    """Tell the account how the heat-map is drawn; a chart of that name that is there already is as good."""
    import wandb

    try:
        wandb.Api().create_custom_chart(
            entity=entity,
            name=CHART,
            display_name="Filters removed, by layer and run",
            spec_type="vega2",
            access="private",
            spec=HEAT_MAP.read_text(encoding="utf-8"),
        )
    except Exception as error:
        if "already exists" in str(error).lower():
            return True
        print(f"left out, W&B did not take its drawing: the heat-map of the layers: {error}")
        return False
    return True


def build_sections(keys: set[str], entity: str = "me") -> tuple[Sections, dict[str, list[str]]]:
    """The panels that the runs can fill, by section; and which were left out, with the missing keys."""
    accuracy, macs = wr.SummaryMetric("test/accuracy"), wr.SummaryMetric("pruning/macs")
    ratios = sorted(key for key in keys if key.startswith("pruning/ratio/"))
    devices = sorted(key for key in keys if key.startswith("test/accuracy_device_"))
    # Beside the picture of a layer's filters lie two numbers, how many it had and has.
    pictures = sorted(
        key
        for key in keys
        if key.startswith("pruning/similarity/")
        or (key.startswith("pruning/filters/") and not key.endswith(("_before", "_after")))
    )
    energy = sorted(key for key in keys if key.startswith("energy/") and key.endswith("/kwh") and key != "energy/kwh")
    legend = "${config:criterion}, ${config:repair}"
    spread = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    wanted: Sections = {
        "Accuracy and cost": [
            wr.ScatterPlot(
                title="Accuracy against multiply-accumulates",
                x=macs,
                y=accuracy,
                running_ymax=True,
                legend_template=legend,
            ),
            wr.ScatterPlot(
                title="Accuracy against the part that was removed",
                x=wr.SummaryMetric("pruning/macs_removed"),
                y=accuracy,
                legend_template=legend,
            ),
        ],
        "Criteria and repair": [
            wr.BarPlot(title=f"By {name}", metrics=["test/accuracy"], groupby=wr.Config(name), **spread)
            for name in ("criterion", "repair")
        ],
        "Data": [
            wr.ScatterPlot(
                title="Accuracy against the share of the training data",
                x=wr.Config("data/fraction"),
                y=accuracy,
                running_ymean=True,
                legend_template=legend,
            ),
        ],
        "Layers": [
            heat_map(entity),
            *(
                [
                    wr.ParallelCoordinatesPlot(
                        title="Part of its filters that each layer lost",
                        columns=[
                            wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(key))
                            for key in (*ratios, "test/accuracy")
                        ],
                    )
                ]
                if ratios
                else []
            ),
            *([wr.MediaBrowser(title="Filters", media_keys=pictures)] if pictures else []),
        ],
        "Devices": [
            wr.BarPlot(
                title=key.removeprefix("test/accuracy_device_"), metrics=[key], groupby=wr.Config("criterion"), **spread
            )
            for key in devices
        ],
        "Energy": [
            wr.BarPlot(title="By phase, kWh", metrics=energy or ["energy/kwh"]),
            wr.ScatterPlot(title="Accuracy against energy", x=wr.SummaryMetric("energy/kwh"), y=accuracy),
        ],
        "Learning": [
            wr.LinePlot(title=key, x="trainer/global_step", y=[key])
            for key in ("train/loss", "val/accuracy", "val/log_loss")
        ],
    }
    sections: Sections = {}
    left_out: dict[str, list[str]] = {}
    for name, panels in wanted.items():
        for panel in panels:
            missing = sorted(panel_keys(panel) - keys)
            if missing:
                left_out[f"{name}: {panel_title(panel)}"] = missing
            else:
                sections.setdefault(name, []).append(panel)
    return sections, left_out


def heat_map(entity: str) -> Any:
    """A row a run, a column a layer, as dark as the part of its filters that it lost."""
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": RATIOS}},
        chart_name=f"{entity}/{CHART}",
        chart_fields={"layer": "layer", "removed": "removed"},
        chart_strings={"title": "Part of its filters that each layer lost"},
    )


def panel_title(panel: Any) -> str:
    return str(panel.chart_strings["title"] if isinstance(panel, wr.CustomChart) else panel.title)


def panel_keys(panel: Any) -> set[str]:
    """The keys that a panel names, as :func:`known_keys` writes them."""
    if isinstance(panel, wr.CustomChart):
        return {panel.query["summaryTable"]["tableKey"]}
    named: list[Any] = [getattr(panel, field, None) for field in ("x", "z", "groupby")]
    several: list[Any] = [getattr(panel, field, None) or [] for field in ("y", "metrics", "media_keys")]
    for entry in several:
        named += entry if isinstance(entry, list) else [entry]
    named += [column.metric for column in getattr(panel, "columns", [])]
    return {
        f"config:{entry.name}" if isinstance(entry, wr.Config) else getattr(entry, "name", entry)
        for entry in named
        if entry is not None
    }


def build_workspace(entity: str, project: str, sections: Sections) -> ws.Workspace:
    return ws.Workspace(
        entity=entity,
        project=project,
        name="Filter pruning",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        settings=ws.WorkspaceSettings(x_axis="trainer/global_step", max_runs=100),
    )


def build_report(entity: str, project: str, sections: Sections) -> wr.Report:
    blocks: list[Any] = [wr.TableOfContents()]
    for name, panels in sections.items():
        runs = wr.Runset(entity=entity, project=project, groupby=["config.criterion", "config.repair"])
        blocks += [wr.H2(name), wr.PanelGrid(panels=panels, runsets=[runs])]
    return wr.Report(
        entity=entity,
        project=project,
        title="Filter pruning",
        description="What pruning cost and brought, by criterion, repair and share of the training data.",
        blocks=blocks,
    )


def workspace_json(workspace: ws.Workspace) -> str:
    return str(workspace._to_model().model_dump_json(indent=1))


def report_json(report: wr.Report) -> str:
    """Title and blocks; of a grid its panels alone, because its set of runs cannot be written without an account."""
    blocks: list[Any] = []
    for block in report.blocks:
        if isinstance(block, wr.PanelGrid):
            blocks.append({"type": "panel-grid", "panels": [json.loads(_model_json(panel)) for panel in block.panels]})
        else:
            blocks.append(json.loads(_model_json(block)))
    return json.dumps({"title": report.title, "description": report.description, "blocks": blocks}, indent=1)


def _model_json(element: Any) -> str:
    return str(element._to_model().model_dump_json())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dashboard", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("project", help="entity/project")
    parser.add_argument("--runs", type=Path, help="folder `wandb` of offline runs that tell the keys")
    parser.add_argument("--dry-run", action="store_true", help="validate and write JSON, without an account")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/dashboard"), help="of the JSON (default: runs/dashboard)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    guarded(main)
